//! A tree to text, as LVM2 writes it on disk: no indentation, one entry a line, two strings of an area on a line.

use std::fmt::Write;

use super::{Entry, Item, Section, Value};

/// Writes the entries one after the other.
pub fn print_text(section: &Section, out: &mut String) {
    for entry in &section.entries {
        print_entry(entry, out);
    }
}

/// Writes one entry.
pub fn print_entry(entry: &Entry, out: &mut String) {
    out.push_str(&entry.key);
    match &entry.item {
        Item::Value(value) => {
            out.push_str(" = ");
            print_value(value, out);
            out.push('\n');
        }
        Item::Section(section) => {
            out.push_str(" {\n");
            print_text(section, out);
            out.push_str("}\n");
        }
    }
}

fn print_value(value: &Value, out: &mut String) {
    match value {
        // Writing to a string does not fail.
        Value::Number(number) => _ = write!(out, "{number}"),
        Value::Real(number) => out.push_str(number),
        Value::Text(text) => print_quoted(text, out),
        Value::Array(values) => {
            out.push('[');
            for (index, value) in values.iter().enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                print_value(value, out);
            }
            out.push(']');
        }
    }
}

/// Writes a string in quotes, with what must be escaped.
pub(crate) fn print_quoted(text: &str, out: &mut String) {
    out.push('"');
    let mut rest = text;
    while let Some(at) = rest.find(['"', '\\']) {
        let (before, odd) = rest.split_at(at);
        out.push_str(before);
        out.push('\\');
        // Both are one byte.
        out.push_str(&odd[..1]);
        rest = &odd[1..];
    }
    out.push_str(rest);
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::parse_text;
    use proptest::prelude::*;

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<i64>().prop_map(Value::Number),
            "[^\u{0}]{0,12}".prop_map(Value::Text),
        ];
        leaf.prop_recursive(2, 8, 4, |inner| {
            prop::collection::vec(inner, 0..4).prop_map(Value::Array)
        })
    }

    fn section() -> impl Strategy<Value = Section> {
        let leaf = prop::collection::btree_map("[a-z][a-z0-9_.+-]{0,8}", value(), 0..5).prop_map(
            |values| Section {
                entries: values
                    .into_iter()
                    .map(|(key, value)| Entry::value(key, value))
                    .collect(),
            },
        );
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop::collection::btree_map("[A-Z][a-z0-9]{0,8}", inner, 0..4).prop_map(|sections| {
                Section {
                    entries: sections
                        .into_iter()
                        .map(|(key, section)| Entry::section(key, section))
                        .collect(),
                }
            })
        })
    }

    proptest! {
        #[test]
        fn what_is_printed_parses_back(section in section()) {
            let mut text = String::new();
            print_text(&section, &mut text);
            prop_assert_eq!(parse_text(text.as_bytes()), Ok(section));
        }

        #[test]
        fn any_bytes_parse_or_fail(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_text(&bytes);
        }

        #[test]
        fn any_marks_parse_or_fail(text in "[a{}=\\[\\],\"\\\\# 1\n]{0,60}") {
            let _ = parse_text(text.as_bytes());
        }
    }
}
