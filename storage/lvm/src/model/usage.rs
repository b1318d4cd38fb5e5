//! Which extents of the physical volumes are in use.

use std::sync::Arc;

use super::{LogicalVolume, Mapping, Run, VolumeGroup};
use crate::text::{Item, Section, Value};

impl VolumeGroup {
    /// For each physical volume its used runs, in order of their start. A run may be there twice if the text is bad.
    pub fn used_runs(&self) -> Vec<Vec<Run>> {
        let mut used = vec![Vec::new(); self.physical_volumes.len()];
        for segment in self.logical_volumes.iter().flat_map(|lv| &lv.segments) {
            for stripe in segment.stripes() {
                let (start, count) = (stripe.start, segment.stripe_extents());
                used[stripe.pv].push(Run { start, count });
            }
            if matches!(segment.mapping, Mapping::Other { .. }) {
                for entry in &segment.rest {
                    self.unknown_runs(&entry.item, segment.count, &mut used);
                }
            }
        }
        used.iter_mut().for_each(|runs| runs.sort());
        used
    }

    /// For each physical volume its free runs, in order, neighbours joined.
    pub fn free_runs(&self) -> Vec<Vec<Run>> {
        let used = self.used_runs();
        let volumes = self.physical_volumes.iter().zip(used);
        volumes
            .map(|(pv, used)| {
                let mut free = Vec::new();
                let mut at = 0;
                for run in used {
                    if run.start > at {
                        let count = run.start - at;
                        free.push(Run { start: at, count });
                    }
                    at = at.max(run.start + run.count);
                }
                if at < pv.extent_count {
                    let count = pv.extent_count - at;
                    free.push(Run { start: at, count });
                }
                free
            })
            .collect()
    }

    /// Free extents of all physical volumes.
    pub fn free_extents(&self) -> u64 {
        self.free_runs().iter().flatten().map(|run| run.count).sum()
    }

    /// Names of the logical volumes that rest, in part at least, on the physical volume.
    pub fn volumes_on(&self, pv: usize) -> Vec<&str> {
        let key = &self.physical_volumes[pv].key;
        let rests = |lv: &&Arc<LogicalVolume>| {
            lv.segments.iter().any(|segment| {
                segment.stripes().iter().any(|stripe| stripe.pv == pv)
                    || segment.names(|text| text == key)
            })
        };
        self.logical_volumes
            .iter()
            .filter(rests)
            .map(|lv| lv.name.as_str())
            .collect()
    }

    /// The logical volume whose segments of a type not known here name the logical volume `name`, if there is one.
    pub fn volume_that_uses(&self, name: &str) -> Option<&str> {
        let uses = |lv: &&Arc<LogicalVolume>| {
            lv.segments
                .iter()
                .any(|segment| segment.names(|text| text == name))
        };
        self.logical_volumes
            .iter()
            .find(uses)
            .map(|lv| lv.name.as_str())
    }

    /// A segment of an unknown type uses what it names as a pair of a physical volume and an extent; how many extents is
    /// not known, but no more than its own.
    fn unknown_runs(&self, item: &Item, count: u64, used: &mut [Vec<Run>]) {
        match item {
            Item::Section(Section { entries }) => {
                for entry in entries {
                    self.unknown_runs(&entry.item, count, used);
                }
            }
            Item::Value(Value::Array(values)) => {
                for pair in values.windows(2) {
                    let [Value::Text(name), Value::Number(start)] = pair else {
                        continue;
                    };
                    let Some(pv) = self.physical_volumes.iter().position(|pv| pv.key == *name)
                    else {
                        continue;
                    };
                    let end = self.physical_volumes[pv].extent_count;
                    let start = u64::try_from(*start).unwrap_or(end).min(end);
                    let count = count.min(end - start);
                    used[pv].push(Run { start, count });
                }
            }
            Item::Value(_) => {}
        }
    }
}

impl super::Segment {
    /// Whether a string in a segment of an unknown type satisfies `is_it`.
    fn names(&self, is_it: impl Fn(&str) -> bool) -> bool {
        fn visit<'a>(item: &'a Item, action: &mut impl FnMut(&'a str)) {
            match item {
                Item::Value(value) => value.visit_texts(action),
                Item::Section(section) => {
                    for entry in &section.entries {
                        visit(&entry.item, action);
                    }
                }
            }
        }
        let mut found = false;
        if matches!(self.mapping, Mapping::Other { .. }) {
            for entry in &self.rest {
                visit(&entry.item, &mut |text| found |= is_it(text));
            }
        }
        found
    }
}
