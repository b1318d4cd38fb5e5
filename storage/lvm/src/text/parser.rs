//! Tokens to a tree.

use std::collections::HashSet;

use super::lexer::{Lexer, TextError, Token};
use super::{Entry, Item, Section, Value};

/// Sections and arrays inside one another.
pub const MAX_DEPTH: usize = 16;

/// Bytes of a text: tens of thousands of volumes.
pub const MAX_TEXT: usize = 64 << 20;

/// Reads a text; NULs at its end are not part of it.
///
/// # Errors
/// The line and what is wrong there: syntax, a key twice in a section, more than [`MAX_DEPTH`] levels or
/// [`MAX_TEXT`] bytes, bytes that are not UTF-8.
pub fn parse_text(bytes: &[u8]) -> Result<Section, TextError> {
    let first_line = |problem: &str| TextError {
        line: 1,
        problem: problem.into(),
    };
    if bytes.len() > MAX_TEXT {
        return Err(first_line("the text is too large to be metadata"));
    }
    let end = bytes.iter().rposition(|&byte| byte != 0);
    let bytes = &bytes[..end.map_or(0, |last| last + 1)];
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let before = &bytes[..error.valid_up_to()];
        TextError {
            line: 1 + before.iter().filter(|&&byte| byte == b'\n').count(),
            problem: "a byte is not UTF-8".into(),
        }
    })?;
    let mut parser = Parser {
        lexer: Lexer::new(text),
    };
    parser.section(0)
}

struct Parser<'a> {
    lexer: Lexer<'a>,
}

impl<'a> Parser<'a> {
    /// Entries up to the closing brace, or at depth zero to the end of the text.
    fn section(&mut self, depth: usize) -> Result<Section, TextError> {
        if depth > MAX_DEPTH {
            return Err(self.lexer.error("sections are nested too deeply"));
        }
        let mut section = Section::default();
        let mut seen: HashSet<&'a str> = HashSet::new();
        loop {
            let key = match self.lexer.next()? {
                Token::Word(key) => key,
                Token::Mark('}') if depth > 0 => return Ok(section),
                Token::End if depth == 0 => return Ok(section),
                Token::End => return Err(self.lexer.error("a section has no end")),
                other => return Err(self.unexpected(&other, "a key")),
            };
            if !seen.insert(key) {
                return Err(self.lexer.error(format!("{key} is there twice")));
            }
            let item = match self.lexer.next()? {
                Token::Mark('=') => Item::Value(self.value()?),
                Token::Mark('{') => Item::Section(self.section(depth + 1)?),
                other => return Err(self.unexpected(&other, "\"=\" or \"{\"")),
            };
            section.entries.push(Entry {
                key: key.to_owned(),
                item,
            });
        }
    }

    fn value(&mut self) -> Result<Value, TextError> {
        let token = self.lexer.next()?;
        self.value_from(token, 0)
    }

    fn value_from(&mut self, token: Token<'a>, depth: usize) -> Result<Value, TextError> {
        match token {
            Token::Text(text) => Ok(Value::Text(text)),
            Token::Word(word) => self.number(word),
            Token::Mark('[') => self.array(depth + 1),
            other => Err(self.unexpected(&other, "a value")),
        }
    }

    /// The values up to the closing bracket; a comma after the last one is allowed.
    fn array(&mut self, depth: usize) -> Result<Value, TextError> {
        if depth > MAX_DEPTH {
            return Err(self.lexer.error("arrays are nested too deeply"));
        }
        let mut values = Vec::new();
        loop {
            match self.lexer.next()? {
                Token::Mark(']') => return Ok(Value::Array(values)),
                token => values.push(self.value_from(token, depth)?),
            }
            match self.lexer.next()? {
                Token::Mark(',') => {}
                Token::Mark(']') => return Ok(Value::Array(values)),
                other => return Err(self.unexpected(&other, "\",\" or \"]\"")),
            }
        }
    }

    fn number(&self, word: &str) -> Result<Value, TextError> {
        if let Ok(number) = word.parse::<i64>() {
            return Ok(Value::Number(number));
        }
        let digits = word.trim_start_matches(['-', '+']);
        match digits.starts_with(|first: char| first.is_ascii_digit())
            && word.parse::<f64>().is_ok()
        {
            true => Ok(Value::Real(word.to_owned())),
            false => Err(self.lexer.error(format!("{word} is not a number"))),
        }
    }

    fn unexpected(&self, token: &Token<'_>, wanted: &str) -> TextError {
        let found = match token {
            Token::Word(word) => (*word).to_owned(),
            Token::Text(_) => "a string".to_owned(),
            Token::Mark(mark) => format!("\"{mark}\""),
            Token::End => "the end of the text".to_owned(),
        };
        self.lexer
            .error(format!("{wanted} should be here, not {found}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> String {
        parse_text(text.as_bytes())
            .expect_err("does not parse")
            .to_string()
    }

    #[test]
    fn sections_values_comments_and_escapes() {
        let text = "# head\ntank {\n\tid = \"a\\\"b\\\\c\" # tail\n\tn=-12\n\
                    f = 1.5\n tags = [\"x\", \"#y\",]\n empty = []\n sub { k = 1 }\n}\n\0\0";
        let tree = parse_text(text.as_bytes()).expect("parses");
        let Some(Item::Section(tank)) = tree.find("tank") else {
            panic!("a section")
        };
        assert_eq!(
            tank.find("id"),
            Some(&Item::Value(Value::Text("a\"b\\c".into())))
        );
        assert_eq!(tank.find("n"), Some(&Item::Value(Value::Number(-12))));
        assert_eq!(
            tank.find("f"),
            Some(&Item::Value(Value::Real("1.5".into())))
        );
        let tags = Value::strings(&["x".into(), "#y".into()]);
        assert_eq!(tank.find("tags"), Some(&Item::Value(tags)));
        assert_eq!(
            tank.find("empty"),
            Some(&Item::Value(Value::Array(Vec::new())))
        );
        assert!(matches!(tank.find("sub"), Some(Item::Section(_))));
    }

    #[test]
    fn errors_name_the_line() {
        assert_eq!(
            problem("a = 1\nb = \n}"),
            "line 3: a value should be here, not \"}\""
        );
        assert_eq!(problem("a {\nb = 1\n"), "line 3: a section has no end");
        assert_eq!(problem("a = 1\na = 2"), "line 2: a is there twice");
        assert_eq!(problem("a = \"x\ny"), "line 1: this string has no end");
        assert_eq!(problem("a = x9"), "line 1: x9 is not a number");
        assert_eq!(problem("\n\n;"), "line 3: ';' does not belong here");
        assert_eq!(problem("a = nan"), "line 1: nan is not a number");
        assert!(parse_text(b"a = \xff").is_err());
    }

    #[test]
    fn depth_is_bounded() {
        assert!(problem(&"a {".repeat(100_000)).contains("nested too deeply"));
        assert!(problem(&format!("a = {}", "[".repeat(100_000))).contains("nested too deeply"));
    }
}
