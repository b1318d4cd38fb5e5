//! Lab files, from whoever wrote them.

use std::path::Path;

use weft_service::lab::Lab;

pub(super) fn file(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Err(error) = Lab::parse(Path::new("lab.toml"), &text) {
        let place = error.to_string();
        assert!(
            place.starts_with("lab.toml:"),
            "no line and column: {place}"
        );
    }
}
