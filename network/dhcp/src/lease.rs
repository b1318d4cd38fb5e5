//! What is remembered of an address.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use weft_wire::MacAddress;

use crate::ClientId;

/// What is remembered of an address: who has it, or had it last. The record of an address replaces any earlier one of
/// the same address. Times are seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The address.
    pub address: Ipv4Addr,
    /// Whose it is or was.
    pub client: ClientId,
    /// The station from which the client last spoke.
    #[serde(with = "mac_text")]
    pub mac: MacAddress,
    /// The name that the client gave itself.
    pub hostname: Option<String>,
    /// Held, given back or found in use elsewhere.
    pub state: LeaseState,
}

/// What became of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LeaseState {
    /// The client holds it until then.
    Bound {
        /// When the client last asked for it.
        renewed: u64,
        /// The end of the lease.
        expires: u64,
    },
    /// The client gave it back then. It is remembered for its return.
    Released {
        /// When it was given back.
        at: u64,
    },
    /// The client found that somebody else uses it; nobody is given it until then.
    Declined {
        /// The end of the quarantine.
        until: u64,
    },
}

impl Lease {
    /// Whether the client holds the address at `now`, in seconds since 1970.
    pub fn is_bound(&self, now: u64) -> bool {
        matches!(self.state, LeaseState::Bound { expires, .. } if expires > now)
    }

    /// Whether nobody may be given the address at `now` but, if it is bound, its holder.
    pub(crate) fn blocks(&self, now: u64) -> bool {
        self.free_from() > now
    }

    /// When the address is, or was, free for others.
    pub(crate) fn free_from(&self) -> u64 {
        match self.state {
            LeaseState::Bound { expires, .. } => expires,
            LeaseState::Released { at } => at,
            LeaseState::Declined { until } => until,
        }
    }
}

mod mac_text {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};
    use weft_wire::MacAddress;

    pub(super) fn serialize<S: Serializer>(
        mac: &MacAddress,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(mac)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<MacAddress, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}
