//! Where disks went whose place another one has taken: for who waits for that.

use std::collections::VecDeque;

use super::ImageWord;
use crate::api::Result;
use crate::storage::Storage;
use crate::storage::disks::key;

/// Moves that are remembered, while the daemon lives.
const MOST: usize = 256;

/// Disks by the words that they had, and those that they have since.
#[derive(Debug, Default)]
pub(in crate::storage) struct Moved(VecDeque<(String, String)>);

impl Moved {
    /// The disk that was known as `from` is `to` now.
    pub(super) fn note(&mut self, from: &str, to: &str) {
        // It is there again.
        self.0.retain(|(old, _)| *old != key(to));
        self.0.truncate(MOST - 1);
        self.0.push_front((from.to_owned(), to.to_owned()));
    }

    /// The word of the disk that was known as `from` the last time.
    fn place(&self, from: &str) -> Option<String> {
        let found = self.0.iter().find(|(old, _)| old == from);
        found.map(|(_, new)| new.clone())
    }
}

impl Storage {
    /// Where the image that was a disk as `disk` went, if another disk has taken its place.
    ///
    /// # Errors
    /// `Invalid` if `disk` is no image's word.
    pub async fn image_moved(&self, disk: &str) -> Result<Option<String>> {
        let word: ImageWord = disk.parse()?;
        Ok(self.state.lock().await.moved.place(&word.key()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_place_is_remembered_and_not_all_of_them() {
        let mut moved = Moved::default();
        moved.note("qcow2:/a", "/b");
        moved.note("/b", "qcow2:/a,allow=any");
        assert_eq!(moved.place("qcow2:/a"), None, "it would go round");
        assert_eq!(moved.place("/b").as_deref(), Some("qcow2:/a,allow=any"));
        moved.note("a", "b");
        moved.note("a", "c");
        assert_eq!(moved.place("a").as_deref(), Some("c"));
        (0..MOST).for_each(|number| moved.note(&number.to_string(), "x"));
        assert_eq!(moved.place("a"), None);
        assert_eq!(moved.0.len(), MOST);
    }
}
