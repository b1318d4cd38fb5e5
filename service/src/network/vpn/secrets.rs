//! Keys of tunnels, in files that only their owner reads. They are nowhere else: not in the store, not in requests.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use weft_tunnel::entropy;
use weft_vpn::{BadKey, PresharedKey, PrivateKey, PublicKey};
use zeroize::Zeroizing;

use crate::api::{Error, ErrorKind, Result};

/// The most bytes of a file that is read for a key: one line, and what people add to it.
const LARGEST_KEY_FILE: u64 = 1024;

/// The folder of all tunnels' keys.
#[derive(Debug, Clone)]
pub(super) struct Secrets {
    folder: PathBuf,
}

impl Secrets {
    pub(super) fn in_folder(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// A tunnel's private key, if it has one.
    pub(super) fn private(&self, tunnel: &str) -> Result<Option<PrivateKey>> {
        self.read(&self.own(tunnel))
    }

    /// A tunnel's private key, which is made if it has none.
    pub(super) fn private_or_new(&self, tunnel: &str) -> Result<PrivateKey> {
        if let Some(key) = self.private(tunnel)? {
            return Ok(key);
        }
        let key = new_key();
        self.set_private(tunnel, &key)?;
        Ok(key)
    }

    pub(super) fn set_private(&self, tunnel: &str, key: &PrivateKey) -> Result<()> {
        self.write(&self.own(tunnel), &key.expose_base64())
    }

    /// What a tunnel and its peer have besides.
    pub(super) fn preshared(&self, tunnel: &str, peer: &PublicKey) -> Result<PresharedKey> {
        let key = self.read(&self.of_peer(tunnel, peer, "psk"))?;
        Ok(key.unwrap_or_else(PresharedKey::none))
    }

    pub(super) fn set_preshared(
        &self,
        tunnel: &str,
        peer: &PublicKey,
        key: &PresharedKey,
    ) -> Result<()> {
        self.write(&self.of_peer(tunnel, peer, "psk"), &key.expose_base64())
    }

    /// The private key of a peer, if it was made here.
    pub(super) fn peer_private(
        &self,
        tunnel: &str,
        peer: &PublicKey,
    ) -> Result<Option<PrivateKey>> {
        self.read(&self.of_peer(tunnel, peer, "key"))
    }

    /// Makes a key pair for a peer that has none.
    pub(super) fn new_peer(&self, tunnel: &str) -> Result<PublicKey> {
        let key = new_key();
        let public = key.public();
        let file = self.of_peer(tunnel, &public, "key");
        self.write(&file, &key.expose_base64())?;
        Ok(public)
    }

    /// Takes a peer's secrets away.
    pub(super) fn forget_peer(&self, tunnel: &str, peer: &PublicKey) {
        for ending in ["psk", "key"] {
            let _ = fs::remove_file(self.of_peer(tunnel, peer, ending));
        }
    }

    /// Takes all of a tunnel's secrets away.
    pub(super) fn forget(&self, tunnel: &str) -> Result<()> {
        match fs::remove_dir_all(self.folder.join(tunnel)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let tried = format!("the keys of tunnel {tunnel} cannot be taken away");
                Err(Error::from_io(tunnel, &tried, &error))
            }
            _ => Ok(()),
        }
    }

    fn own(&self, tunnel: &str) -> PathBuf {
        self.folder.join(tunnel).join("private.key")
    }

    fn of_peer(&self, tunnel: &str, peer: &PublicKey, ending: &str) -> PathBuf {
        let digits: String = peer.0.iter().map(|byte| format!("{byte:02x}")).collect();
        self.folder.join(tunnel).join(format!("{digits}.{ending}"))
    }

    fn read<K: FromStr<Err = BadKey>>(&self, file: &Path) -> Result<Option<K>> {
        match read_key(file) {
            Ok(key) => Ok(Some(key)),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes a key so that after a crash it is there whole, or as it was.
    fn write(&self, file: &Path, text: &str) -> Result<()> {
        let write = || {
            let folder = file.parent().unwrap_or(&self.folder);
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)?;
            let fresh = file.with_extension("new");
            let _ = fs::remove_file(&fresh);
            let mut opened = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&fresh)?;
            opened.write_all(text.as_bytes())?;
            opened.write_all(b"\n")?;
            opened.sync_all()?;
            fs::rename(&fresh, file)?;
            File::open(folder)?.sync_all()
        };
        write().map_err(|error| {
            let name = file.display().to_string();
            Error::from_io(
                &name,
                &format!("the key cannot be written to {name}"),
                &error,
            )
        })
    }
}

fn new_key() -> PrivateKey {
    let mut bytes = Zeroizing::new([0; 32]);
    entropy().fill(&mut *bytes);
    PrivateKey::new(*bytes)
}

/// The key that a file holds in one line.
///
/// # Errors
/// `NotFound` or `Io` if it cannot be read, `Invalid` if it holds no key; what it holds is not told.
pub(super) fn read_key<K: FromStr<Err = BadKey>>(file: &Path) -> Result<K> {
    let name = file.display().to_string();
    let mut text = Zeroizing::new(String::with_capacity(LARGEST_KEY_FILE as usize));
    File::open(file)
        .and_then(|opened| opened.take(LARGEST_KEY_FILE).read_to_string(&mut text))
        .map_err(|error| Error::from_io(&name, &format!("{name} cannot be read"), &error))?;
    text.trim()
        .parse()
        .map_err(|error| Error::new(ErrorKind::Invalid, &name, format!("{name}: {error}")))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn keys_are_their_owners_alone_and_go_with_the_tunnel() {
        let folder = tempfile::tempdir().unwrap();
        let secrets = Secrets::in_folder(folder.path().join("vpn"));
        let key = secrets.private_or_new("wg0").unwrap();
        let again = secrets.private_or_new("wg0").unwrap();
        assert_eq!(key.expose(), again.expose());
        let peer = secrets.new_peer("wg0").unwrap();
        assert_eq!(
            secrets
                .peer_private("wg0", &peer)
                .unwrap()
                .unwrap()
                .public(),
            peer
        );
        assert!(!secrets.preshared("wg0", &peer).unwrap().is_some());
        secrets
            .set_preshared("wg0", &peer, &PresharedKey::new([7; 32]))
            .unwrap();
        assert_eq!(secrets.preshared("wg0", &peer).unwrap().expose(), &[7; 32]);
        for entry in fs::read_dir(folder.path().join("vpn/wg0")).unwrap() {
            let mode = entry.unwrap().metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        secrets.forget_peer("wg0", &peer);
        assert!(secrets.peer_private("wg0", &peer).unwrap().is_none());
        secrets.forget("wg0").unwrap();
        secrets.forget("wg0").unwrap();
        assert!(secrets.private("wg0").unwrap().is_none());
    }

    #[test]
    fn a_file_without_a_key_is_refused_and_not_repeated() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        fs::write(&file, "my secret that is no key").unwrap();
        let error = read_key::<PrivateKey>(&file).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid);
        assert!(!error.message.contains("secret"), "{}", error.message);
    }
}
