//! The history of one sector.

use std::hash::{DefaultHasher, Hasher};

/// What a sector holds, as a number: zero for zeroes, otherwise a hash.
pub(super) type Value = u64;

/// The number of `bytes`.
pub(super) fn value_of(bytes: &[u8]) -> Value {
    if bytes.iter().all(|&byte| byte == 0) {
        return 0;
    }
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish().max(1)
}

/// What a request does to a sector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// It holds the value.
    Write(Value),
    /// It keeps its value or reads as zeroes.
    Discard,
}

impl Change {
    fn value(self) -> Value {
        match self {
            Self::Write(value) => value,
            Self::Discard => 0,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Pending,
    Acknowledged(u64),
    /// Failed or cut short at that time: done or not.
    Open(u64),
}

/// One change, by the oracle's count of events.
#[derive(Debug, Clone, Copy)]
struct Event {
    change: Change,
    submitted: u64,
    fate: Fate,
    /// It survives a power cut, unless something newer does.
    durable: bool,
    /// A flush failed over it: a later flush does not cover it.
    uncovered: bool,
    /// A running device may still show it.
    visible: bool,
}

impl Event {
    /// Whether it certainly took effect before `time`, leaving nothing of what came before.
    fn replaces_before(&self, time: u64) -> bool {
        matches!((self.change, self.fate), (Change::Write(_), Fate::Acknowledged(at)) if at < time)
    }

    /// Whether `self` was over when `other` began.
    fn precedes(&self, other: &Self) -> bool {
        match self.fate {
            Fate::Pending => false,
            Fate::Acknowledged(at) | Fate::Open(at) => at < other.submitted,
        }
    }
}

/// All changes that may still matter, oldest first; at first the zeroes that a new device holds.
#[derive(Debug)]
pub(super) struct Sector {
    events: Vec<Event>,
}

impl Default for Sector {
    fn default() -> Self {
        Self::holding(0)
    }
}

impl Event {
    fn settled(value: Value, at: u64) -> Self {
        Self {
            change: Change::Write(value),
            submitted: at,
            fate: Fate::Acknowledged(at),
            durable: true,
            uncovered: false,
            visible: true,
        }
    }
}

impl Sector {
    /// A sector that holds `value` from the start.
    pub(super) fn holding(value: Value) -> Self {
        Self {
            events: vec![Event::settled(value, 0)],
        }
    }

    pub(super) fn submitted(&mut self, change: Change, at: u64) {
        self.events.push(Event {
            change,
            submitted: at,
            fate: Fate::Pending,
            durable: false,
            uncovered: false,
            visible: true,
        });
    }

    /// The change that was submitted at `submitted` completed at `at`.
    pub(super) fn completed(&mut self, submitted: u64, at: u64, done: bool, fua: bool) {
        let event = self
            .events
            .iter_mut()
            .find(|event| event.submitted == submitted && event.fate == Fate::Pending);
        if let Some(event) = event {
            event.fate = match done {
                true => Fate::Acknowledged(at),
                false => Fate::Open(at),
            };
            event.durable = done && fua;
        }
    }

    /// A flush that was submitted at `submitted` completed.
    pub(super) fn flushed(&mut self, submitted: u64) {
        for event in &mut self.events {
            if let Fate::Acknowledged(at) = event.fate {
                event.durable |= at < submitted && !event.uncovered;
            }
        }
    }

    /// A flush failed at `at`.
    pub(super) fn flush_failed(&mut self, at: u64) {
        for event in &mut self.events {
            if matches!(event.fate, Fate::Acknowledged(acknowledged) if acknowledged < at) {
                event.uncovered = !event.durable;
            }
        }
    }

    /// A read that was submitted at `begun` and has now completed gave `value`. No read that is still in flight was
    /// submitted before `oldest_read`.
    pub(super) fn observed(
        &mut self,
        value: Value,
        begun: u64,
        oldest_read: u64,
    ) -> Result<(), String> {
        let allowed: Vec<Event> = self.candidates(begun).copied().collect();
        if !allowed.iter().any(|event| event.change.value() == value) {
            return Err(format!(
                "a read gave value {value:016x} where only {} are allowed",
                names(&allowed)
            ));
        }
        // A read that began earlier may yet show what was there before.
        if begun < oldest_read {
            self.settle(value, begun);
        }
        Ok(())
    }

    /// Whether a failed or cut write may have left it unreadable for a read that was submitted at `begun`.
    pub(super) fn may_be_unreadable(&self, begun: u64) -> bool {
        self.candidates(begun)
            .any(|event| !matches!(event.fate, Fate::Acknowledged(_)))
    }

    /// Whether all that was ever there is zeroes: a device that ends before it has lost nothing.
    pub(super) fn holds_nothing(&self) -> bool {
        self.events.iter().all(|event| event.change.value() == 0)
    }

    /// What a read that was submitted at `begun` may show.
    fn candidates(&self, begun: u64) -> impl Iterator<Item = &Event> {
        self.events.iter().filter(move |event| {
            event.visible
                && !self.events.iter().any(|newer| {
                    newer.visible && newer.replaces_before(begun) && event.precedes(newer)
                })
        })
    }

    /// A value that was seen while nothing else was going on stays until the next change.
    fn settle(&mut self, value: Value, begun: u64) {
        let quiet = self.events.iter().all(|event| match event.fate {
            Fate::Pending => false,
            Fate::Acknowledged(at) | Fate::Open(at) => at < begun,
        });
        let flips = self
            .events
            .iter()
            .any(|event| event.visible && event.change == Change::Discard);
        if !quiet || flips {
            return;
        }
        if self.events.iter().all(|event| event.submitted == 0) {
            // All of it lies before a power cut: what is seen now is on the medium.
            self.events = vec![Event::settled(value, 0)];
            return;
        }
        for event in &mut self.events {
            event.visible = event.change.value() == value;
        }
    }

    /// The power went: only what is durable is certain.
    pub(super) fn cut(&mut self) {
        let survivors: Vec<Event> = self
            .events
            .iter()
            .filter(|event| {
                !self.events.iter().any(|newer| {
                    newer.durable && newer.change != Change::Discard && event.precedes(newer)
                })
            })
            .copied()
            .collect();
        self.events = survivors;
        for event in &mut self.events {
            event.visible = true;
            event.fate = match event {
                Event { durable: true, .. } => Fate::Acknowledged(0),
                _ => Fate::Open(0),
            };
            event.submitted = 0;
        }
    }

    /// Who served it was gone at `at`: nobody will ever acknowledge what was in flight.
    pub(super) fn left(&mut self, at: u64) {
        for event in &mut self.events {
            if event.fate == Fate::Pending {
                event.fate = Fate::Open(at);
            }
        }
    }

    /// Forgets what can matter no more: what a durable write replaced, for every read in flight too.
    pub(super) fn prune(&mut self, oldest_read: u64) {
        let replaced = |event: &Event| {
            self.events.iter().any(|newer| {
                newer.durable
                    && newer.visible
                    && newer.replaces_before(oldest_read)
                    && event.precedes(newer)
            })
        };
        let kept = self.events.iter().filter(|event| !replaced(event));
        self.events = kept.copied().collect();
    }
}

fn names(events: &[Event]) -> String {
    let names: Vec<String> = events
        .iter()
        .map(|event| format!("{:016x}", event.change.value()))
        .collect();
    names.join(", ")
}
