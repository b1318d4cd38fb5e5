//! The timestamps of initiations, which only ever grow (whitepaper, 5.1).

use std::time::{Duration, SystemTime};

/// Seconds of TAI64 at 1970, which is ten seconds ahead of UTC.
const EPOCH: u64 = (1 << 62) + 10;
/// To how many nanoseconds a timestamp is rounded down, so that it does not tell the time exactly. A sixtieth of a
/// second: initiations come less often than that.
const GRAIN: u32 = 1 << 24;

/// A TAI64N label, whose order is that of its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Timestamp(pub(crate) [u8; 12]);

impl Timestamp {
    /// A label for `wall` that is above `last`, even if the clock was set back meanwhile.
    pub(crate) fn after(last: Option<Self>, wall: SystemTime) -> Self {
        let since = wall
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        let now = Self::of(EPOCH + since.as_secs(), since.subsec_nanos() & !(GRAIN - 1));
        last.map_or(now, |last| now.max(last.next()))
    }

    fn of(seconds: u64, nanoseconds: u32) -> Self {
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&seconds.to_be_bytes());
        bytes[8..].copy_from_slice(&nanoseconds.to_be_bytes());
        Self(bytes)
    }

    fn next(self) -> Self {
        let mut number = [0; 16];
        number[4..].copy_from_slice(&self.0);
        let next = (u128::from_be_bytes(number) + 1).to_be_bytes();
        let mut bytes = [0; 12];
        bytes.copy_from_slice(&next[4..]);
        Self(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_even_when_the_clock_is_set_back() {
        let wall = SystemTime::UNIX_EPOCH + Duration::new(1_600_000_000, 123_456_789);
        let first = Timestamp::after(None, wall);
        assert_eq!(&first.0[..8], &0x4000_0000_5f5e_100a_u64.to_be_bytes());
        assert_eq!(first.0[11], 0);
        let earlier = Timestamp::after(Some(first), wall - Duration::from_secs(3600));
        assert!(earlier > first);
        let later = Timestamp::after(Some(earlier), wall + Duration::from_secs(1));
        assert!(later > earlier);
        assert!(Timestamp::after(None, SystemTime::UNIX_EPOCH - Duration::from_secs(1)) < first);
    }
}
