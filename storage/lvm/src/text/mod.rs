//! The text that LVM2 keeps its metadata in: nested sections of `key = value`.
//!
//! ```text
//! text    = item*
//! item    = key "=" value | key "{" item* "}"
//! value   = number | "\"" string "\"" | "[" (value ("," value)*)? ","? "]"
//! comment = "#" to the end of the line, anywhere between tokens
//! ```
//!
//! Parsing is bounded: [`MAX_TEXT`] bytes, [`MAX_DEPTH`] levels.

mod lexer;
mod parser;
mod printer;
mod tree;

pub use lexer::TextError;
pub use parser::{MAX_DEPTH, MAX_TEXT, parse_text};
pub(crate) use printer::print_quoted;
pub use printer::{print_entry, print_text};
pub use tree::{Entry, Item, Section, Value};
