//! Hosts in a lab file: `[host.a]`, and its links `[host.a.link.b]`.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

use super::file::Lab;
use super::source::Source;
use crate::api::{Action, Change, Host, HostLink, Result, Status};
use crate::network::hosts;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenHost {
    #[serde(default)]
    forward: bool,
    #[serde(default)]
    link: BTreeMap<String, Spanned<WrittenLink>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenLink {
    address: String,
    peer: String,
    #[serde(default)]
    routes: Vec<String>,
    #[serde(default)]
    masquerade: bool,
}

/// Hosts by name, as they are written.
pub(super) type Written = BTreeMap<String, WrittenHost>;

impl Source<'_> {
    pub(super) fn hosts(&self, written: &Written) -> Result<Vec<Host>> {
        let host = |(name, host): (&String, &WrittenHost)| {
            let link = |(to, link): (&String, _)| self.link(name, to, link, written);
            Ok(Host {
                name: name.clone(),
                forward: host.forward,
                links: host.link.iter().map(link).collect::<Result<_>>()?,
            })
        };
        written.iter().map(host).collect()
    }

    fn link(
        &self,
        from: &str,
        name: &str,
        link: &Spanned<WrittenLink>,
        written: &Written,
    ) -> Result<HostLink> {
        let (start, link) = (link.span().start, link.get_ref());
        if !written.contains_key(name) || name == from {
            let what = format!("no other host named {name:?} is declared here");
            return Err(self.wrong(start, &what));
        }
        if written[name].link.contains_key(from) && from > name {
            let what = format!("the link between {name} and {from} is declared at both of them");
            return Err(self.wrong(start, &what));
        }
        let link = HostLink {
            to: name.to_owned(),
            address: link.address.clone(),
            peer: link.peer.clone(),
            routes: link.routes.clone(),
            masquerade: link.masquerade,
        };
        hosts::checked(from, &link).map_err(|error| self.wrong(start, &error.message))?;
        Ok(link)
    }
}

impl Lab {
    /// The host and the link that a change of the noun `link` is about.
    pub(crate) fn link(&self, change: &Change) -> Option<(&str, &HostLink)> {
        let (from, to) = change.name.split_once('/')?;
        let host = self.hosts.iter().find(|host| host.name == from)?;
        let link = host.links.iter().find(|link| link.to == to)?;
        Some((&host.name, link))
    }

    /// What `up` does about hosts: all of them, then their links.
    pub(super) fn hosts_up(&self, status: &Status, changes: &mut Vec<Change>) {
        let found = |name: &str| status.hosts.iter().find(|host| host.name == name);
        let change = |there, noun: &str, name, detail| Change {
            action: if there { Action::Keep } else { Action::Create },
            noun: noun.to_owned(),
            name,
            detail,
        };
        for host in &self.hosts {
            let there = found(&host.name).is_some();
            let detail = if host.forward { "a router" } else { "a host" };
            changes.push(change(there, "host", host.name.clone(), detail.to_owned()));
        }
        for host in &self.hosts {
            for link in &host.links {
                let is_same = |known: &HostLink| known.to == link.to;
                let there = found(&host.name).is_some_and(|host| host.links.iter().any(is_same));
                let name = format!("{}/{}", host.name, link.to);
                let detail = format!("{} to {}", link.address, link.peer);
                changes.push(change(there, "link", name, detail));
            }
        }
    }

    /// What `down` does about hosts. Links go with them.
    pub(super) fn hosts_down(&self, status: &Status, changes: &mut Vec<Change>) {
        for host in &self.hosts {
            if status.hosts.iter().any(|found| found.name == host.name) {
                changes.push(Change {
                    action: Action::Remove,
                    noun: "host".to_owned(),
                    name: host.name.clone(),
                    detail: "with its links".to_owned(),
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Lab> {
        Lab::parse(std::path::Path::new("/l/x.toml"), text)
    }

    const PAIR: &str = r#"
[host.internet]
forward = true
[host.a.link.internet]
address = "192.0.2.2/30"
peer = "192.0.2.1/30"
routes = ["0.0.0.0/0"]
"#;

    #[test]
    fn links_name_hosts_of_the_file() {
        let lab = parse(PAIR).unwrap();
        assert_eq!(lab.hosts.len(), 2);
        let a = &lab.hosts[0];
        assert!(!a.forward && a.links[0].to == "internet" && lab.hosts[1].forward);
        for (more, what) in [
            (
                "[host.b.link.c]\naddress = \"192.0.2.6/30\"\npeer = \"192.0.2.5/30\"\n",
                "no other host named \"c\"",
            ),
            (
                "[host.b.link.b]\naddress = \"192.0.2.6/30\"\npeer = \"192.0.2.5/30\"\n",
                "no other host named \"b\"",
            ),
            (
                "[host.internet.link.a]\naddress = \"192.0.2.6/30\"\npeer = \"192.0.2.5/30\"\n",
                "at both of them",
            ),
            (
                "[host.b.link.a]\naddress = \"192.0.2.6\"\npeer = \"192.0.2.5/30\"\n",
                "is no address with a prefix",
            ),
            (
                "[host.a_name_that_is_too_long]\n[host.b.link.a_name_that_is_too_long]\naddress = \"192.0.2.6/30\"\npeer = \"192.0.2.5/30\"\n",
                "Linux takes at most 15",
            ),
        ] {
            let message = parse(&format!("{PAIR}{more}")).unwrap_err().message;
            assert!(message.contains(what), "{message}");
        }
    }
}
