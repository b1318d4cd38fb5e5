//! From text to a configuration.

use std::str::FromStr;

use weft_wire::IpCidr;

use super::{BadConfig, Config, ConfigPeer, LARGEST_FILE};
use crate::{Prefix, PresharedKey, PublicKey};

/// Where a line stands.
enum Section {
    None,
    Interface,
    /// A peer, whose public key may not have been read yet.
    Peer(Option<PublicKey>, Draft),
}

/// A peer as far as it was read.
#[derive(Default)]
struct Draft {
    line: usize,
    preshared_key: Option<PresharedKey>,
    allowed_ips: Vec<Prefix>,
    endpoint: Option<String>,
    persistent_keepalive: u16,
}

impl FromStr for Config {
    type Err = BadConfig;

    fn from_str(text: &str) -> Result<Self, BadConfig> {
        if text.len() > LARGEST_FILE {
            return Err(BadConfig {
                line: 1,
                what: format!("the file has more than {LARGEST_FILE} bytes"),
            });
        }
        let mut config = Self::default();
        let mut section = Section::None;
        for (number, line) in text.lines().enumerate() {
            let number = number + 1;
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            if let Some(name) = line.strip_prefix('[') {
                let next = match name.trim_end_matches(']').trim() {
                    name if name.eq_ignore_ascii_case("interface") => Section::Interface,
                    name if name.eq_ignore_ascii_case("peer") => Section::Peer(
                        None,
                        Draft {
                            line: number,
                            ..Draft::default()
                        },
                    ),
                    _ => return Err(wrong(number, "a section is [Interface] or [Peer]")),
                };
                config.close(std::mem::replace(&mut section, next))?;
                continue;
            }
            let (key, value) = line
                .split_once('=')
                .ok_or_else(|| wrong(number, "neither a section nor KEY = VALUE"))?;
            let (key, value) = (key.trim().to_ascii_lowercase(), value.trim());
            match &mut section {
                Section::None => return Err(wrong(number, "this stands before [Interface]")),
                Section::Interface => config.take(number, &key, value)?,
                Section::Peer(public, draft) if key == "publickey" => {
                    *public = Some(parse(number, value, "a key")?);
                }
                Section::Peer(_, draft) => draft.take(number, &key, value)?,
            }
        }
        config.close(section)?;
        Ok(config)
    }
}

impl Config {
    /// Takes a section that has ended.
    fn close(&mut self, section: Section) -> Result<(), BadConfig> {
        let Section::Peer(public, draft) = section else {
            return Ok(());
        };
        let public_key = public.ok_or_else(|| wrong(draft.line, "a peer without a PublicKey"))?;
        self.peers.push(ConfigPeer {
            public_key,
            preshared_key: draft.preshared_key.unwrap_or_else(PresharedKey::none),
            allowed_ips: draft.allowed_ips,
            endpoint: draft.endpoint,
            persistent_keepalive: draft.persistent_keepalive,
        });
        Ok(())
    }

    fn take(&mut self, line: usize, key: &str, value: &str) -> Result<(), BadConfig> {
        match key {
            "privatekey" => self.private_key = Some(parse(line, value, "a key")?),
            "listenport" => self.listen_port = Some(parse(line, value, "a port")?),
            "mtu" => self.mtu = Some(parse(line, value, "an MTU")?),
            "fwmark" => self.fwmark = Some(mark(value).ok_or_else(|| wrong(line, "no mark"))?),
            "address" => self
                .addresses
                .extend(list::<IpCidr>(line, value, "an address")?),
            "table" => match value.to_ascii_lowercase().as_str() {
                "off" => self.routes = false,
                "auto" => {}
                _ => return Err(wrong(line, "Table is auto or off here")),
            },
            "dns" | "preup" | "postup" | "predown" | "postdown" | "saveconfig" => {
                let name = key.to_owned();
                if !self.left_out.contains(&name) {
                    self.left_out.push(name);
                }
            }
            _ => return Err(wrong(line, "an interface has no such key")),
        }
        Ok(())
    }
}

impl Draft {
    fn take(&mut self, line: usize, key: &str, value: &str) -> Result<(), BadConfig> {
        match key {
            "presharedkey" => self.preshared_key = Some(parse(line, value, "a key")?),
            "allowedips" => self
                .allowed_ips
                .extend(list::<Prefix>(line, value, "a subnet")?),
            "endpoint" => {
                if !is_endpoint(value) {
                    return Err(wrong(line, "Endpoint is HOST:PORT"));
                }
                self.endpoint = Some(value.to_owned());
            }
            "persistentkeepalive" => {
                self.persistent_keepalive = match value {
                    "off" => 0,
                    _ => parse(line, value, "a number of seconds")?,
                };
            }
            _ => return Err(wrong(line, "a peer has no such key")),
        }
        Ok(())
    }
}

/// Whether it is `HOST:PORT`, the host a name or an address, with brackets if it is of IPv6.
pub fn is_endpoint(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let plain = !host.is_empty() && !host.contains([':', '[', ']', ' ', '/']);
    (bracketed && text.parse::<std::net::SocketAddr>().is_ok() || plain)
        && port.parse::<u16>().is_ok_and(|port| port != 0)
}

fn mark(value: &str) -> Option<u32> {
    match value.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None if value == "off" => Some(0),
        None => value.parse().ok(),
    }
}

fn list<T: FromStr>(line: usize, value: &str, what: &str) -> Result<Vec<T>, BadConfig> {
    let parts = value
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty());
    parts.map(|part| parse(line, part, what)).collect()
}

fn parse<T: FromStr>(line: usize, value: &str, what: &str) -> Result<T, BadConfig> {
    value
        .parse()
        .map_err(|_| wrong(line, &format!("this is not {what}")))
}

fn wrong(line: usize, what: &str) -> BadConfig {
    BadConfig {
        line,
        what: what.to_owned(),
    }
}
