//! Text to tokens.

use std::fmt;

/// Where a text is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong there.
    pub problem: String,
}

impl fmt::Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.problem)
    }
}

impl std::error::Error for TextError {}

/// A token; words and numbers are slices of the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// A key or a bare number.
    Word(&'a str),
    /// A quoted string, unescaped.
    Text(String),
    /// One of `= { } [ ] ,`.
    Mark(char),
    /// Nothing is left.
    End,
}

pub(super) struct Lexer<'a> {
    text: &'a str,
    at: usize,
    line: usize,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self {
            text,
            at: 0,
            line: 1,
        }
    }

    pub(super) fn error(&self, problem: impl Into<String>) -> TextError {
        TextError {
            line: self.line,
            problem: problem.into(),
        }
    }

    pub(super) fn next(&mut self) -> Result<Token<'a>, TextError> {
        self.skip_blank();
        let bytes = self.text.as_bytes();
        let Some(&first) = bytes.get(self.at) else {
            return Ok(Token::End);
        };
        match first {
            b'=' | b'{' | b'}' | b'[' | b']' | b',' => {
                self.at += 1;
                Ok(Token::Mark(char::from(first)))
            }
            b'"' => self.quoted().map(Token::Text),
            byte if is_word(byte) => {
                let rest = &bytes[self.at..];
                let len = rest.iter().take_while(|&&byte| is_word(byte)).count();
                let word = &self.text[self.at..self.at + len];
                self.at += len;
                Ok(Token::Word(word))
            }
            _ => {
                let odd = self.text[self.at..].chars().next().unwrap_or_default();
                Err(self.error(format!("{odd:?} does not belong here")))
            }
        }
    }

    fn skip_blank(&mut self) {
        let bytes = self.text.as_bytes();
        while let Some(&byte) = bytes.get(self.at) {
            match byte {
                b'\n' => self.line += 1,
                b'#' => {
                    let rest = &bytes[self.at..];
                    self.at += rest
                        .iter()
                        .position(|&byte| byte == b'\n')
                        .unwrap_or(rest.len());
                    continue;
                }
                byte if byte.is_ascii_whitespace() => {}
                _ => return,
            }
            self.at += 1;
        }
    }

    /// The string that starts at a quote; a backslash takes the next character as it is.
    fn quoted(&mut self) -> Result<String, TextError> {
        let opened = self.error("this string has no end");
        let mut string = String::new();
        self.at += 1;
        loop {
            let rest = &self.text[self.at..];
            let Some(plain) = rest.bytes().position(|byte| matches!(byte, b'"' | b'\\')) else {
                return Err(opened);
            };
            string.push_str(&rest[..plain]);
            self.line += rest[..plain].bytes().filter(|&byte| byte == b'\n').count();
            let ends = rest.as_bytes()[plain] == b'"';
            self.at += plain + 1;
            if ends {
                return Ok(string);
            }
            let Some(escaped) = rest[plain + 1..].chars().next() else {
                return Err(opened);
            };
            string.push(escaped);
            self.at += escaped.len_utf8();
        }
    }
}

/// What keys and numbers are made of.
fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'+' | b'.' | b'/' | b'@')
}
