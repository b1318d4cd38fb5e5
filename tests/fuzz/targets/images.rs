//! What images of strangers say of other files.

use weft_service::storage::images::Described;

/// A `json:` name; and the same bytes as options, a line each.
pub(super) fn names(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(described) = Described::of_json(&text) {
        assert_eq!(Described::of_json(&text).ok(), Some(described));
    }
    let options = text.lines().map(|line| match line.split_once('=') {
        Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
        None => (line.to_owned(), None),
    });
    let _ = Described::of_options(options.collect());
}
