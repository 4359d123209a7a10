"""What evaluation and training share: questions, data sets, worlds, resampling, report figures and tables;
imports the algorithm and the engines' contract, neither evaluation nor training."""
