//! What is written as one thing or as a list of them.

use serde::{Deserialize, Deserializer};

/// One, or a list.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(crate) enum OneOrMore<T> {
    /// Written as it is.
    One(T),
    /// Written as a list.
    More(Vec<T>),
}

impl<T> OneOrMore<T> {
    /// All of them.
    pub(crate) fn into_list(self) -> Vec<T> {
        match self {
            Self::One(one) => vec![one],
            Self::More(more) => more,
        }
    }
}

/// A list of which one thing may stand without brackets.
pub(crate) fn list<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    from: D,
) -> Result<Vec<T>, D::Error> {
    OneOrMore::deserialize(from).map(OneOrMore::into_list)
}
