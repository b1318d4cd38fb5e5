//! A parsed text.

/// A value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A whole number.
    Number(i64),
    /// Any other bare number, as it was written.
    Real(String),
    /// A string, unescaped.
    Text(String),
    /// An array; LVM2 writes none inside another.
    Array(Vec<Value>),
}

/// What a key names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// `key = value`
    Value(Value),
    /// `key { … }`
    Section(Section),
}

/// A key and what it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// What it names.
    pub item: Item,
}

/// Entries in the order of the text, each key once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Section {
    /// The entries.
    pub entries: Vec<Entry>,
}

impl Entry {
    /// `key = value`.
    pub fn value(key: impl Into<String>, value: Value) -> Self {
        Self {
            key: key.into(),
            item: Item::Value(value),
        }
    }

    /// `key { … }`.
    pub fn section(key: impl Into<String>, section: Section) -> Self {
        Self {
            key: key.into(),
            item: Item::Section(section),
        }
    }
}

impl Section {
    /// What `key` names.
    pub fn find(&self, key: &str) -> Option<&Item> {
        self.entries
            .iter()
            .find(|entry| entry.key == key)
            .map(|entry| &entry.item)
    }

    /// Takes out what `key` names.
    pub fn take(&mut self, key: &str) -> Option<Item> {
        let index = self.entries.iter().position(|entry| entry.key == key)?;
        Some(self.entries.remove(index).item)
    }
}

impl Value {
    /// An array of strings.
    pub fn strings(texts: &[String]) -> Self {
        Self::Array(texts.iter().cloned().map(Self::Text).collect())
    }

    /// Calls `visit` with each string in the value.
    pub fn visit_texts<'a>(&'a self, visit: &mut impl FnMut(&'a str)) {
        match self {
            Self::Text(text) => visit(text),
            Self::Array(values) => values.iter().for_each(|value| value.visit_texts(visit)),
            Self::Number(_) | Self::Real(_) => {}
        }
    }
}
