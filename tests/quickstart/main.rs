//! The quickstart's rows and tokenizer, and the generator of what its model is pretrained from.

#[path = "../../examples/make_quickstart/chats.rs"]
mod chats;
#[path = "../../examples/make_quickstart/config.rs"]
mod config;
#[path = "../../examples/make_quickstart/phrase.rs"]
mod phrase;
#[path = "../../examples/make_quickstart/pool.rs"]
mod pool;
#[path = "../../examples/make_quickstart/tokenizer.rs"]
mod tokenizer;
#[path = "../../examples/make_quickstart/tools.rs"]
mod tools;
#[path = "../../examples/make_quickstart/words.rs"]
mod words;

mod generator;
mod rows;
mod vocabulary;
