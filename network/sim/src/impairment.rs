//! What a link does to packets.

use std::time::Duration;

/// What a link does to packets. Probabilities are between 0 (never) and 1 (always).
#[derive(Debug, Clone, PartialEq)]
pub struct Impairment {
    /// That a packet never arrives.
    pub loss: f64,
    /// That it arrives twice, the second time after a delay of its own.
    pub duplicate: f64,
    /// That one of its bits is wrong. Only links that are given bytes can do this.
    pub corrupt: f64,
    /// The least time on the way.
    pub delay: Duration,
    /// What chance adds to the delay, at most. Packets keep their order in spite of it, but for `reorder`.
    pub jitter: Duration,
    /// That a packet may be overtaken: it is held up by `reorder_delay` at most, and others do not wait for it.
    pub reorder: f64,
    /// The most that a packet which may be overtaken is held up.
    pub reorder_delay: Duration,
    /// Bytes per second; none for a link without a limit.
    pub rate: Option<u64>,
    /// Bytes that may wait for the rate before further ones are lost.
    pub queue: u64,
}

impl Impairment {
    /// A link that does nothing but take a tenth of a millisecond.
    pub const fn none() -> Self {
        Self {
            loss: 0.0,
            duplicate: 0.0,
            corrupt: 0.0,
            delay: Duration::from_micros(100),
            jitter: Duration::ZERO,
            reorder: 0.0,
            reorder_delay: Duration::ZERO,
            rate: None,
            queue: u64::MAX,
        }
    }

    /// A bad link: a fifth is lost, a tenth comes twice, a quarter is overtaken within a second.
    pub const fn bad() -> Self {
        Self {
            loss: 0.2,
            duplicate: 0.1,
            delay: Duration::from_millis(1),
            jitter: Duration::from_millis(30),
            reorder: 0.25,
            reorder_delay: Duration::from_millis(1000),
            ..Self::none()
        }
    }

    /// The longest that a packet can be on its way, waiting for the rate not counted.
    pub fn longest(&self) -> Duration {
        self.delay + self.jitter + self.reorder_delay
    }
}
