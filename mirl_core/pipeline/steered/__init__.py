"""The steered stage: decoded descriptions vote first, samples follow while the vote is open."""
