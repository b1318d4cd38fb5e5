//! What is declared, kept across restarts.
//!
//! On-disk metadata is the truth for storage; here stands which disks belong together and everything that no disk
//! tells. Each write is one durable transaction. The trait is the seam for a store that several hosts share.

use std::path::Path;

use redb::{Database, ReadableDatabase, TableDefinition};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::api::{Error, ErrorKind, Result};

/// What kind of thing a record describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A RAID array's name and disks.
    Array,
    /// A volume group's disks.
    Group,
    /// An export.
    Export,
    /// A host of a lab, and its links.
    Host,
    /// A network.
    Network,
    /// The leases of a network's DHCP server.
    Leases,
    /// A tunnel and its peers, without their secrets.
    Vpn,
    /// A machine and its process.
    Machine,
    /// What is done to an image in the background.
    ImageJob,
}

impl Kind {
    fn prefix(self) -> &'static str {
        match self {
            Self::Array => "array/",
            Self::Group => "group/",
            Self::Export => "export/",
            Self::Host => "host/",
            Self::Network => "network/",
            Self::Leases => "leases/",
            Self::Vpn => "vpn/",
            Self::Machine => "machine/",
            Self::ImageJob => "image-job/",
        }
    }

    fn key(self, name: &str) -> String {
        format!("{}{name}", self.prefix())
    }
}

/// Named JSON records, durable when a call returns.
pub trait Store: Send + Sync {
    /// Sets the record, or takes it away.
    ///
    /// # Errors
    /// `Io`; the old record stands.
    fn set(&self, kind: Kind, name: &str, value: Option<&serde_json::Value>) -> Result<()>;

    /// Sets several records of a kind at once: all of them, or none.
    ///
    /// # Errors
    /// `Io`; the old records stand.
    fn set_all(&self, kind: Kind, records: &[(String, serde_json::Value)]) -> Result<()>;

    /// All records of a kind, by name.
    ///
    /// # Errors
    /// `Io`.
    fn all(&self, kind: Kind) -> Result<Vec<(String, serde_json::Value)>>;
}

impl dyn Store {
    /// Sets a typed record.
    ///
    /// # Errors
    /// `Io`; the old record stands.
    pub fn put<T: Serialize>(&self, kind: Kind, name: &str, value: &T) -> Result<()> {
        let value = serde_json::to_value(value)
            .map_err(|error| broken(name, &format!("cannot be written: {error}")))?;
        self.set(kind, name, Some(&value))
    }

    /// Takes a record away; it need not be there.
    ///
    /// # Errors
    /// `Io`; the old record stands.
    pub fn remove(&self, kind: Kind, name: &str) -> Result<()> {
        self.set(kind, name, None)
    }

    /// All typed records of a kind, by name.
    ///
    /// # Errors
    /// `Io`, or `Corrupt` if a record is none of this version's.
    pub fn read<T: DeserializeOwned>(&self, kind: Kind) -> Result<Vec<(String, T)>> {
        self.all(kind)?
            .into_iter()
            .map(|(name, value)| match serde_json::from_value(value) {
                Ok(value) => Ok((name, value)),
                Err(error) => Err(broken(&name, &format!("cannot be read: {error}"))),
            })
            .collect()
    }
}

fn broken(name: &str, what: &str) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        name,
        format!("the inventory's record of {name} {what}"),
    )
}

const RECORDS: TableDefinition<&str, &str> = TableDefinition::new("records");

/// The store of one host, in a file.
pub struct Embedded {
    database: Database,
}

impl Embedded {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// `Io`, naming the file.
    pub fn open(path: &Path) -> Result<Self> {
        let failed = |error: &dyn std::fmt::Display| {
            let name = path.display().to_string();
            Error::new(
                ErrorKind::Io,
                name.clone(),
                format!("the inventory {name} cannot be opened: {error}"),
            )
        };
        // The inventory holds a few hundred small records: a small cache keeps the idle daemon small.
        const CACHE_BYTES: usize = 1 << 20;
        let database = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create(path)
            .map_err(|error| failed(&error))?;
        let embedded = Self { database };
        embedded
            .transaction(|_| Ok(()))
            .map_err(|error| failed(&error))?;
        Ok(embedded)
    }

    fn transaction(
        &self,
        change: impl FnOnce(&mut redb::Table<'_, &'static str, &'static str>) -> Result<(), redb::Error>,
    ) -> Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
        change(&mut transaction.open_table(RECORDS)?)?;
        transaction.commit()?;
        Ok(())
    }

    fn scan(&self, kind: Kind) -> Result<Vec<(String, String)>, redb::Error> {
        let table = self.database.begin_read()?.open_table(RECORDS)?;
        let prefix = kind.prefix();
        let mut found = Vec::new();
        for record in table.range(prefix..)? {
            let (key, value) = record?;
            let Some(name) = key.value().strip_prefix(prefix) else {
                break;
            };
            found.push((name.to_owned(), value.value().to_owned()));
        }
        Ok(found)
    }
}

impl Store for Embedded {
    fn set(&self, kind: Kind, name: &str, value: Option<&serde_json::Value>) -> Result<()> {
        let key = kind.key(name);
        let text = value.map(ToString::to_string);
        self.transaction(|table| {
            match &text {
                Some(text) => table.insert(key.as_str(), text.as_str())?,
                None => table.remove(key.as_str())?,
            };
            Ok(())
        })
        .map_err(|error| {
            Error::new(
                ErrorKind::Io,
                name,
                format!("the inventory cannot be written: {error}"),
            )
        })
    }

    fn set_all(&self, kind: Kind, records: &[(String, serde_json::Value)]) -> Result<()> {
        let texts = records
            .iter()
            .map(|(name, value)| (kind.key(name), value.to_string()));
        let texts: Vec<(String, String)> = texts.collect();
        self.transaction(|table| {
            for (key, text) in &texts {
                table.insert(key.as_str(), text.as_str())?;
            }
            Ok(())
        })
        .map_err(|error| {
            Error::general(
                ErrorKind::Io,
                format!("the inventory cannot be written: {error}"),
            )
        })
    }

    fn all(&self, kind: Kind) -> Result<Vec<(String, serde_json::Value)>> {
        let records = self.scan(kind).map_err(|error| {
            Error::general(
                ErrorKind::Io,
                format!("the inventory cannot be read: {error}"),
            )
        })?;
        records
            .into_iter()
            .map(|(name, text)| match serde_json::from_str(&text) {
                Ok(value) => Ok((name, value)),
                Err(error) => Err(broken(&name, &format!("is damaged: {error}"))),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_outlive_the_store_and_kinds_do_not_mix() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("inventory.redb");
        {
            let store: Box<dyn Store> = Box::new(Embedded::open(&file).unwrap());
            store.put(Kind::Array, "tank", &["a", "b"]).unwrap();
            store.put(Kind::Array, "gone", &["c"]).unwrap();
            store.put(Kind::Group, "tank", &["tank"]).unwrap();
            let leases = [
                ("lan/1".to_owned(), 1.into()),
                ("lan/2".to_owned(), 2.into()),
            ];
            store.set_all(Kind::Leases, &leases).unwrap();
            store.remove(Kind::Array, "gone").unwrap();
            store.remove(Kind::Array, "never").unwrap();
        }
        let store: Box<dyn Store> = Box::new(Embedded::open(&file).unwrap());
        let arrays: Vec<(String, Vec<String>)> = store.read(Kind::Array).unwrap();
        assert_eq!(
            arrays,
            [("tank".to_owned(), vec!["a".to_owned(), "b".to_owned()])]
        );
        assert_eq!(store.all(Kind::Group).unwrap().len(), 1);
        let leases: Vec<(String, u32)> = store.read(Kind::Leases).unwrap();
        assert_eq!(leases, [("lan/1".to_owned(), 1), ("lan/2".to_owned(), 2)]);
        assert_eq!(
            store.read::<u64>(Kind::Array).unwrap_err().kind,
            ErrorKind::Corrupt
        );
    }
}
