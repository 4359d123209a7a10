/**
 * What the server sends, and what the page keeps. MI is in nats, times are in seconds.
 *
 * @typedef {{position: number, drafted: string, chosen: string, gain: number | null}} Switch
 * @typedef {{mi_weight: number, rounds: number, switches: Switch[]}} Decoding
 *
 * @typedef {object} Description
 * @property {number} index
 * @property {string} text
 * @property {number} tokens
 * @property {number | null} mi
 * @property {number | null} mi_per_token
 * @property {number | null} score
 * @property {boolean} kept
 * @property {string | null} reason why it is dropped
 * @property {number[]} [token_mi]
 * @property {number[]} [token_pmi] MI of each token at λ = 1
 * @property {string[]} [token_texts]
 * @property {number} [votes]
 * @property {number | null} [repeats]
 * @property {Decoding} [decoding]
 *
 * @typedef {object} Chain
 * @property {number | null} description
 * @property {number} fork
 * @property {string | null} answer
 * @property {number} tokens
 * @property {string} finish_reason `stop`, `length`, or `abort`
 * @property {number} votes
 *
 * @typedef {{answer: string, counts: Record<string, number>, share: number}} Vote
 * @typedef {{description: number | null, fork: number}} Representative
 * @typedef {{stage: string, sequences: number, generated_tokens: number, scored_tokens: number,
 *   seconds: number}} Stage
 * @typedef {{descriptions: number, keep?: number, forks?: number, decoded?: number}} Budget
 *
 * @typedef {object} Evidence
 * @property {Budget} [budget]
 * @property {Description[]} descriptions
 * @property {Chain[]} chains
 * @property {Representative} representative
 * @property {Vote | null} vote
 * @property {number | null} confidence
 * @property {boolean} calibrated
 * @property {string | null} uncalibrated
 * @property {string[]} warnings
 * @property {boolean} partial
 * @property {string | null} fallback
 * @property {number | null} mi_weight
 * @property {Stage[]} stages
 *
 * @typedef {object} Score
 * @property {number} index
 * @property {string} text
 * @property {number} tokens
 * @property {number} logprob
 * @property {number} marginal
 * @property {number} mi
 * @property {number} mi_per_token
 * @property {number[]} [token_mi]
 * @property {number[]} [token_pmi] MI of each token at λ = 1
 * @property {string[]} [token_texts]
 *
 * @typedef {{mi_weight: number | null, model: string, data: Score[]}} Scores
 * @typedef {{model: string, file: string, question: string, answer: string}} Sample
 * @typedef {{name: string, url: string, width: number, height: number}} Picture
 * @typedef {{prompt_tokens: number, completion_tokens: number}} Usage
 *
 * @typedef {object} Plain an answer of the plain model, or of a vote of several
 * @property {string} way
 * @property {"greedy" | "sc"} method
 * @property {string} answer
 * @property {number} tokens
 * @property {number} seconds
 * @property {[string, number][]} counts answers with their votes, the most frequent first
 *
 * @typedef {object} Settings what a link holds beside the question
 * @property {string} preset empty: the model's own
 * @property {string} descriptions empty: the preset's
 * @property {string} keep
 * @property {string} forks
 * @property {string} mi_weight
 * @property {string} seed
 * @property {string} timeout
 * @property {boolean} compare
 *
 * @typedef {"ask" | "score"} Mode
 *
 * @typedef {object} Turn a question of the conversation, and what became of it
 * @property {number} id
 * @property {string} question
 * @property {Picture[]} pictures those of the question itself
 * @property {string} method name of the method, which decides the colour
 * @property {import("../wire/stages.js").Run} run
 * @property {Plain[]} plain
 * @property {boolean} compares
 * @property {"running" | "comparing" | "done" | "failed" | "cancelled"} status
 * @property {string} error
 * @property {number} seconds
 */
export {};
