//! From a configuration to text.

use std::fmt::Write as _;

use zeroize::Zeroizing;

use super::Config;

/// Room for the longest line that a key or a number comes to.
const LINE_ROOM: usize = 128;

impl Config {
    /// The file, wiped when it is dropped. [`Config::left_out`] is not in it.
    pub fn expose(&self) -> Zeroizing<String> {
        let prefixes: usize = self.peers.iter().map(|peer| peer.allowed_ips.len()).sum();
        let lines = 8 + self.addresses.len() + 8 * self.peers.len() + prefixes;
        // With room for all of it no copy is left behind as it grows.
        let mut text = Zeroizing::new(String::with_capacity(lines * LINE_ROOM));
        self.push_interface(&mut text);
        for peer in &self.peers {
            // Writing into a string does not fail.
            let _ = write!(text, "\n[Peer]\nPublicKey = {}\n", peer.public_key);
            if peer.preshared_key.is_some() {
                let key = peer.preshared_key.expose_base64();
                let _ = writeln!(text, "PresharedKey = {}", *key);
            }
            if !peer.allowed_ips.is_empty() {
                let all: Vec<String> = peer.allowed_ips.iter().map(ToString::to_string).collect();
                let _ = writeln!(text, "AllowedIPs = {}", all.join(", "));
            }
            if let Some(endpoint) = &peer.endpoint {
                let _ = writeln!(text, "Endpoint = {endpoint}");
            }
            if peer.persistent_keepalive > 0 {
                let _ = writeln!(text, "PersistentKeepalive = {}", peer.persistent_keepalive);
            }
        }
        text
    }

    fn push_interface(&self, text: &mut String) {
        text.push_str("[Interface]\n");
        match &self.private_key {
            Some(key) => {
                let key = key.expose_base64();
                let _ = writeln!(text, "PrivateKey = {}", *key);
            }
            // The key is known to the peer alone; wg-quick(8) has this way to take it from there.
            None => text.push_str("PostUp = wg set %i private-key /etc/wireguard/%i.key\n"),
        }
        for address in &self.addresses {
            let _ = writeln!(text, "Address = {address}");
        }
        if let Some(port) = self.listen_port {
            let _ = writeln!(text, "ListenPort = {port}");
        }
        if let Some(mtu) = self.mtu {
            let _ = writeln!(text, "MTU = {mtu}");
        }
        if let Some(mark) = self.fwmark.filter(|mark| *mark != 0) {
            let _ = writeln!(text, "FwMark = {mark:#x}");
        }
        if !self.routes {
            text.push_str("Table = off\n");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "AAEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAUE=";

    #[test]
    fn what_is_written_is_read() {
        let text = format!(
            "[Interface]\nPrivateKey = {KEY} # mine\nAddress = 10.0.0.1/24, fd00::1/64\nListenPort = 51820\n\
             MTU = 1380\nFwMark = 0x77\nTable = off\nDNS = 1.1.1.1\nPostUp = echo secret\n\n# the other one\n\
             [peer]\nallowedips = 10.0.0.2, 10.2.0.0/16\nALLOWEDIPS=fd02::/64\nPublicKey={KEY}\n\
             PresharedKey = {KEY}\nEndpoint = [fd00::9]:5\nPersistentKeepalive = 25\n[Peer]\nPublicKey = {KEY}\n\
             Endpoint = host.example:51820\nPersistentKeepalive = off\n"
        );
        let config: Config = text.parse().unwrap();
        assert_eq!(config.left_out, ["dns", "postup"]);
        let written = config.expose();
        let expected = format!(
            "[Interface]\nPrivateKey = {KEY}\nAddress = 10.0.0.1/24\nAddress = fd00::1/64\nListenPort = 51820\n\
             MTU = 1380\nFwMark = 0x77\nTable = off\n\n[Peer]\nPublicKey = {KEY}\nPresharedKey = {KEY}\n\
             AllowedIPs = 10.0.0.2/32, 10.2.0.0/16, fd02::/64\nEndpoint = [fd00::9]:5\nPersistentKeepalive = 25\n\n\
             [Peer]\nPublicKey = {KEY}\nEndpoint = host.example:51820\n"
        );
        assert_eq!(*written, expected);
        let again: Config = written.parse().unwrap();
        assert_eq!(*again.expose(), expected);
    }

    #[test]
    fn a_mistake_is_told_by_its_line_and_never_by_what_stands_there() {
        for (text, line) in [
            ("PrivateKey = x", 1),
            ("[Interface]\nPrivateKey = secret", 2),
            ("[Interface]\n\nAddress = 10.0.0.0/33", 3),
            ("[Interface]\nColour = blue", 2),
            ("[Peer]\nAllowedIPs = 10.0.0.0/8\n", 1),
            ("[Peer]\nEndpoint = fd00::1:5\n", 2),
            ("[Peer]\nPresharedKey = secret\n", 2),
            ("[Other]", 1),
            ("nonsense", 1),
        ] {
            let error = text.parse::<Config>().unwrap_err();
            assert_eq!(error.line, line, "{text}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
