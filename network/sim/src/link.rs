//! One direction of a link.

use std::time::Duration;

use rand::Rng;

use crate::Impairment;

/// One direction of a link between two places.
#[derive(Debug, Clone)]
pub struct Link {
    impairment: Impairment,
    /// When the latest packet that keeps its order arrives.
    latest: Duration,
    /// When the transmitter is done with what was accepted, under a rate.
    busy_until: Duration,
}

impl Link {
    /// A link that does this to packets.
    pub fn new(impairment: Impairment) -> Self {
        Self {
            impairment,
            latest: Duration::ZERO,
            busy_until: Duration::ZERO,
        }
    }

    /// Changes what it does from now on.
    pub fn set_impairment(&mut self, impairment: Impairment) {
        self.impairment = impairment;
    }

    /// When a packet of `bytes` bytes that is sent at `now` arrives: no instant if it is lost, several if it is
    /// duplicated.
    pub fn carry(&mut self, bytes: usize, now: Duration, rng: &mut impl Rng) -> Vec<Duration> {
        let Some(sent) = self.transmit(bytes as u64, now) else {
            return Vec::new();
        };
        if rng.random_bool(self.impairment.loss) {
            return Vec::new();
        }
        let mut arrivals = vec![self.arrival(sent, rng)];
        if rng.random_bool(self.impairment.duplicate) {
            arrivals.push(self.arrival(sent, rng));
        }
        arrivals
    }

    /// As [`Link::carry`], for a packet of bytes, of which each arrival may have a wrong bit.
    pub fn carry_bytes(
        &mut self,
        packet: &[u8],
        now: Duration,
        rng: &mut impl Rng,
    ) -> Vec<(Duration, Vec<u8>)> {
        self.carry(packet.len(), now, rng)
            .into_iter()
            .map(|at| {
                let mut packet = packet.to_vec();
                if !packet.is_empty() && rng.random_bool(self.impairment.corrupt) {
                    let byte = rng.random_range(0..packet.len());
                    packet[byte] ^= 1 << rng.random_range(0..8);
                }
                (at, packet)
            })
            .collect()
    }

    /// When the last bit has left, or nothing if the queue is full.
    fn transmit(&mut self, bytes: u64, now: Duration) -> Option<Duration> {
        let Some(rate) = self.impairment.rate else {
            return Some(now);
        };
        let start = self.busy_until.max(now);
        let waiting = (start - now).as_secs_f64() * rate as f64;
        if waiting + bytes as f64 > self.impairment.queue as f64 {
            return None;
        }
        self.busy_until = start + Duration::from_secs_f64(bytes as f64 / rate as f64);
        Some(self.busy_until)
    }

    fn arrival(&mut self, sent: Duration, rng: &mut impl Rng) -> Duration {
        let wire = sent + self.impairment.delay;
        if rng.random_bool(self.impairment.reorder) {
            return wire + up_to(self.impairment.reorder_delay, rng);
        }
        self.latest = (wire + up_to(self.impairment.jitter, rng)).max(self.latest);
        self.latest
    }
}

fn up_to(most: Duration, rng: &mut impl Rng) -> Duration {
    most.mul_f64(rng.random::<f64>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    fn arrivals(impairment: Impairment, packets: u64) -> Vec<Vec<Duration>> {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let mut link = Link::new(impairment);
        (0..packets)
            .map(|n| link.carry(1000, Duration::from_millis(n), &mut rng))
            .collect()
    }

    #[test]
    fn loses_and_duplicates_as_told() {
        let all = arrivals(Impairment::none(), 1000);
        assert!(all.iter().all(|one| one.len() == 1));
        let bad = arrivals(Impairment::bad(), 10_000);
        let lost = bad.iter().filter(|one| one.is_empty()).count();
        let twice = bad.iter().filter(|one| one.len() == 2).count();
        assert!((1900..2100).contains(&lost), "{lost}");
        assert!((700..900).contains(&twice), "{twice}");
    }

    #[test]
    fn jitter_keeps_the_order_and_reordering_does_not() {
        let jitter = Impairment {
            jitter: Duration::from_millis(50),
            ..Impairment::none()
        };
        let times: Vec<Duration> = arrivals(jitter, 1000).concat();
        assert!(times.is_sorted());
        let bad = Impairment {
            reorder: 0.5,
            reorder_delay: Duration::from_millis(50),
            ..Impairment::none()
        };
        let times: Vec<Duration> = arrivals(bad, 1000).concat();
        assert!(!times.is_sorted());
    }

    #[test]
    fn a_rate_spaces_packets_and_a_full_queue_loses_them() {
        let slow = Impairment {
            rate: Some(1_000_000),
            queue: 5_000,
            delay: Duration::ZERO,
            ..Impairment::none()
        };
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let mut link = Link::new(slow);
        let times: Vec<_> = (0..10)
            .flat_map(|_| link.carry(1000, Duration::ZERO, &mut rng))
            .collect();
        let expected: Vec<_> = (1..=5).map(Duration::from_millis).collect();
        assert_eq!(times, expected);
    }

    #[test]
    fn corrupts_one_bit() {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let mut link = Link::new(Impairment {
            corrupt: 1.0,
            ..Impairment::none()
        });
        let arrived = link.carry_bytes(&[0; 64], Duration::ZERO, &mut rng);
        let ones: u32 = arrived[0].1.iter().map(|byte| byte.count_ones()).sum();
        assert_eq!(ones, 1);
    }
}
