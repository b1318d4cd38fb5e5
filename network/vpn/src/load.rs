//! When handshakes come too fast, and from whom.
//!
//! Everything has a fixed size: a flood costs no memory.

use std::net::IpAddr;
use std::time::Duration;

use crate::entropy::{Entropy, draw_secret};
use crate::mac::mac;

/// How many handshake messages are handled before their senders must prove where they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadLimits {
    /// As many may come at once: enough that a thousand peers who all return at the same moment are not turned away.
    pub burst: u32,
    /// As many may come each second.
    pub per_second: u32,
}

impl Default for LoadLimits {
    fn default() -> Self {
        Self {
            burst: 2048,
            per_second: 512,
        }
    }
}

/// How long the load counts as high after it was.
const LINGERS: Duration = Duration::from_secs(1);
/// What a proven source may send under load (as the kernel has it).
const SOURCE_LIMITS: LoadLimits = LoadLimits {
    burst: 5,
    per_second: 20,
};
/// Buckets that sources share.
const SOURCES: usize = 4096;

/// A count of what may still come, in thousandths, and when it was right.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    spent: u32,
    at: u32,
}

impl Bucket {
    const EMPTY: Self = Self { spent: 0, at: 0 };

    /// Takes one, if one is there. Milliseconds may wrap around.
    fn take(&mut self, limits: LoadLimits, milliseconds: u32) -> bool {
        let passed = milliseconds.wrapping_sub(self.at);
        self.at = milliseconds;
        self.spent = self
            .spent
            .saturating_sub(passed.saturating_mul(limits.per_second));
        let fits = self.spent.saturating_add(1000) <= limits.burst.saturating_mul(1000);
        if fits {
            self.spent += 1000;
        }
        fits
    }
}

/// Whether there is too much to do.
pub(crate) struct Load {
    limits: LoadLimits,
    all: Bucket,
    high_until: Option<Duration>,
    /// What the sources' places follow from, drawn when the load is first high.
    sources: Option<Sources>,
}

struct Sources {
    secret: zeroize::Zeroizing<[u8; 32]>,
    buckets: Box<[Bucket]>,
}

impl Load {
    pub(crate) fn new(limits: LoadLimits) -> Self {
        Self {
            limits,
            all: Bucket::EMPTY,
            high_until: None,
            sources: None,
        }
    }

    /// Notes a handshake message whose sender knows us, and tells whether there are too many.
    pub(crate) fn is_high(&mut self, now: Duration) -> bool {
        if !self.all.take(self.limits, now.as_millis() as u32) {
            self.high_until = Some(now + LINGERS);
        }
        self.high_until.is_some_and(|until| now < until)
    }

    /// Whether a source that has proved where it is has not sent too many of late. An IPv6 source is its /64.
    pub(crate) fn allows(
        &mut self,
        source: IpAddr,
        now: Duration,
        entropy: &mut dyn Entropy,
    ) -> bool {
        let sources = self.sources.get_or_insert_with(|| Sources {
            secret: draw_secret(entropy),
            buckets: vec![Bucket::EMPTY; SOURCES].into(),
        });
        let hash = match source {
            IpAddr::V4(ip) => mac(&*sources.secret, &[&ip.octets()]),
            IpAddr::V6(ip) => mac(&*sources.secret, &[&ip.octets()[..8]]),
        };
        let place = usize::from(u16::from_le_bytes([hash[0], hash[1]])) % SOURCES;
        sources.buckets[place].take(SOURCE_LIMITS, now.as_millis() as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_taken_and_a_flood_is_not() {
        let mut load = Load::new(LoadLimits {
            burst: 10,
            per_second: 5,
        });
        let start = Duration::from_secs(3);
        assert!((0..10).all(|_| !load.is_high(start)));
        assert!(load.is_high(start));
        assert!(load.is_high(start + Duration::from_millis(999)));
        let later = start + Duration::from_secs(3);
        assert!((0..10).all(|_| !load.is_high(later)));
        assert!(load.is_high(later));
    }

    #[test]
    fn each_source_has_its_share() {
        let mut load = Load::new(LoadLimits::default());
        let mut entropy = |bytes: &mut [u8]| bytes.fill(1);
        let now = Duration::from_secs(3);
        let mut allowed = |ip: &str, now| load.allows(ip.parse().unwrap(), now, &mut entropy);
        assert!((0..5).all(|_| allowed("10.0.0.1", now)));
        assert!(!allowed("10.0.0.1", now) && allowed("10.0.0.2", now));
        assert!((0..5).all(|_| allowed("2001:db8::1", now)));
        assert!(!allowed("2001:db8::ffff", now), "the same /64");
        assert!(allowed("10.0.0.1", now + Duration::from_millis(50)));
    }
}
