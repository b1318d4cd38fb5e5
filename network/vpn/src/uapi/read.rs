//! From lines to requests.

use super::{AllowedChange, BadOperation, DeviceChange, PeerChange, Request};
use crate::{PresharedKey, PrivateKey};

/// The longest line that makes sense, and then some.
pub const LONGEST_LINE: usize = 256;
/// The most lines of one operation: a million prefixes and their peers.
pub const MOST_LINES: usize = 1 << 20;

/// Takes the lines of one client.
#[derive(Debug, Default)]
pub struct Reader {
    request: Option<Request>,
    lines: usize,
    /// A line of the operation made no sense; the rest of it is read over.
    bad: bool,
}

impl Reader {
    /// A client that has not said anything.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a line, without what ends it. The empty line that closes an operation gives its request.
    pub fn line(&mut self, line: &str) -> Option<Result<Request, BadOperation>> {
        if line.is_empty() {
            let Self { request, bad, .. } = std::mem::take(self);
            let request = request.filter(|_| !bad);
            return Some(request.ok_or(BadOperation));
        }
        self.lines += 1;
        if self.bad || self.lines > MOST_LINES || self.take(line).is_none() {
            // What was read may be large, and hold secrets.
            self.request = None;
            self.bad = true;
        }
        None
    }

    fn take(&mut self, line: &str) -> Option<()> {
        let (key, value) = line.split_once('=')?;
        match &mut self.request {
            None => {
                self.request = Some(match (key, value) {
                    ("get", "1") => Request::Get,
                    ("set", "1") => Request::Set(Box::default()),
                    _ => return None,
                });
                Some(())
            }
            Some(Request::Get) => None,
            Some(Request::Set(change)) => change.take(key, value),
        }
    }
}

impl DeviceChange {
    fn take(&mut self, key: &str, value: &str) -> Option<()> {
        if key == "public_key" {
            self.peers.push(PeerChange::new(hex(value)?.parse().ok()?));
            return Some(());
        }
        if let Some(peer) = self.peers.last_mut() {
            return peer.take(key, value);
        }
        match key {
            "private_key" => {
                let key: PresharedKey = hex(value)?.parse().ok()?;
                let key = key.is_some().then(|| PrivateKey::new(*key.expose()));
                self.private_key = Some(key);
            }
            "listen_port" => self.listen_port = Some(value.parse().ok()?),
            "fwmark" => self.fwmark = Some(value.parse().ok()?),
            "replace_peers" => self.replace_peers = yes(value)?,
            _ => return None,
        }
        Some(())
    }
}

impl PeerChange {
    fn take(&mut self, key: &str, value: &str) -> Option<()> {
        match key {
            "remove" => self.remove = yes(value)?,
            "update_only" => self.update_only = yes(value)?,
            "preshared_key" => self.preshared_key = Some(hex(value)?.parse().ok()?),
            "endpoint" => self.endpoint = Some(value.parse().ok()?),
            "persistent_keepalive_interval" => {
                self.persistent_keepalive = Some(value.parse().ok()?);
            }
            "replace_allowed_ips" => self.replace_allowed_ips = yes(value)?,
            "allowed_ip" => self.allowed_ips.push(match value.strip_prefix('-') {
                Some(gone) => AllowedChange::Remove(gone.parse().ok()?),
                None => AllowedChange::Add(value.parse().ok()?),
            }),
            "protocol_version" => return (value == "1").then_some(()),
            _ => return None,
        }
        Some(())
    }
}

/// Keys are hexadecimal here, and nothing else.
fn hex(value: &str) -> Option<&str> {
    (value.len() == 64).then_some(value)
}

fn yes(value: &str) -> Option<bool> {
    (value == "true").then_some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "0101010101010101010101010101010101010101010101010101010101010141";

    fn read(text: &str) -> Vec<Result<Request, BadOperation>> {
        let mut reader = Reader::new();
        text.lines().filter_map(|line| reader.line(line)).collect()
    }

    fn change(text: &str) -> DeviceChange {
        match read(text).pop() {
            Some(Ok(Request::Set(change))) => *change,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn reads_all_that_can_be_set() {
        let change = change(&format!(
            "set=1\nprivate_key={KEY}\nlisten_port=51820\nfwmark=7\nreplace_peers=true\npublic_key={KEY}\n\
             update_only=true\npreshared_key={KEY}\nendpoint=[::1]:5\npersistent_keepalive_interval=25\n\
             replace_allowed_ips=true\nallowed_ip=10.0.0.0/8\nallowed_ip=-::/0\nprotocol_version=1\n\
             public_key={KEY}\nremove=true\n\n"
        ));
        assert_eq!((change.listen_port, change.fwmark), (Some(51820), Some(7)));
        assert!(change.replace_peers && matches!(change.private_key, Some(Some(_))));
        let [first, second] = &change.peers[..] else {
            panic!("two peers");
        };
        assert!(first.update_only && first.replace_allowed_ips && first.preshared_key.is_some());
        assert_eq!(first.endpoint.unwrap().to_string(), "[::1]:5");
        assert_eq!(first.persistent_keepalive, Some(25));
        assert_eq!(
            first.allowed_ips,
            [
                AllowedChange::Add("10.0.0.0/8".parse().unwrap()),
                AllowedChange::Remove("::/0".parse().unwrap()),
            ]
        );
        assert!(second.remove);
    }

    #[test]
    fn several_operations_come_on_one_connection_and_a_bad_one_spoils_itself_alone() {
        let all = read(&format!(
            "get=1\n\nset=1\nlisten_port=x\npublic_key={KEY}\n\nset=1\n\nget=1\nfwmark=1\n\n\n"
        ));
        assert!(matches!(
            &all[..],
            [
                Ok(Request::Get),
                Err(BadOperation),
                Ok(Request::Set(_)),
                Err(BadOperation),
                Err(BadOperation)
            ]
        ));
    }

    #[test]
    fn a_key_of_zeroes_is_none() {
        let zero = "0".repeat(64);
        let change = change(&format!("set=1\nprivate_key={zero}\n\n"));
        assert!(matches!(change.private_key, Some(None)));
    }
}
