//! The power is cut at every write of every change, over several disks, with sectors kept, lost and torn.

use weft_block::{Info, Result, Spawner};
use weft_lvm::model::VolumeGroup;
use weft_lvm::{Amount, Disk, Group, NewVolume, scan};
use weft_sim::{Executor, PowerCut, PowerSupply, SparseImage, for_each_seed};

use crate::rig::{MIB, disk, host, options};

const DISKS: usize = 3;
const SIZE: u64 = 8 * MIB;

/// A change, and how many of the disks are in the group before it.
struct Change {
    name: &'static str,
    members: usize,
    run: for<'a> fn(Machine<'a>) -> weft_block::LocalBoxFuture<'a, Result<()>>,
}

/// The disks, and what a change needs.
struct Machine<'a> {
    disks: &'a [Disk],
    spawner: &'a Spawner,
    members: usize,
    seed: u64,
}

impl Machine<'_> {
    async fn group(&self) -> Result<Group> {
        let found = scan(self.disks, self.spawner).await.take("tank")?;
        Group::open(found, host(self.seed), self.spawner).await
    }
}

const CHANGES: [Change; 9] = [
    Change {
        name: "create a group",
        members: 0,
        run: |machine| Box::pin(create(machine, DISKS)),
    },
    Change {
        name: "create a group on one disk",
        members: 0,
        run: |machine| Box::pin(create(machine, 1)),
    },
    Change {
        name: "create a volume",
        members: 3,
        run: |machine| {
            Box::pin(async move {
                let new = NewVolume {
                    stripes: 2,
                    ..NewVolume::linear("new", Amount::Bytes(4 * MIB))
                };
                machine
                    .group()
                    .await?
                    .create_volume(&new, machine.spawner)
                    .await
            })
        },
    },
    Change {
        name: "create a volume on the only disk",
        members: 1,
        run: |machine| {
            Box::pin(async move {
                let new = NewVolume::linear("new", Amount::PercentFree(100));
                machine
                    .group()
                    .await?
                    .create_volume(&new, machine.spawner)
                    .await
            })
        },
    },
    Change {
        name: "resize a volume",
        members: 2,
        run: |machine| {
            Box::pin(async move {
                let mut group = machine.group().await?;
                group
                    .resize_volume("old", Amount::Bytes(4 * MIB), &[], machine.spawner)
                    .await
            })
        },
    },
    Change {
        name: "remove a volume",
        members: 2,
        run: |machine| {
            Box::pin(async move {
                machine
                    .group()
                    .await?
                    .remove_volume("old", machine.spawner)
                    .await
            })
        },
    },
    Change {
        name: "extend the group",
        members: 1,
        run: |machine| {
            Box::pin(async move {
                let disks = &machine.disks[machine.members..];
                machine
                    .group()
                    .await?
                    .extend(disks, &options(), machine.spawner)
                    .await
            })
        },
    },
    Change {
        name: "reduce the group",
        members: 3,
        run: |machine| {
            Box::pin(async move {
                machine
                    .group()
                    .await?
                    .reduce(&["disk2", "disk1"], machine.spawner)
                    .await
            })
        },
    },
    Change {
        name: "remove the group",
        members: 3,
        run: |machine| {
            Box::pin(async move {
                let mut group = machine.group().await?;
                group.remove_volume("old", machine.spawner).await?;
                group.remove(machine.spawner).await
            })
        },
    },
];

async fn create(machine: Machine<'_>, count: usize) -> Result<()> {
    let (disks, host) = (&machine.disks[..count], host(machine.seed));
    Group::create("tank", disks, &options(), host, machine.spawner).await?;
    Ok(())
}

/// A machine of which the power can be cut.
struct Rig {
    executor: Executor,
    supply: PowerSupply,
    power: Vec<PowerCut>,
    disks: Vec<Disk>,
}

impl Rig {
    fn new(seed: u64, images: &[SparseImage]) -> Self {
        let supply = PowerSupply::new(seed);
        let info = Info::new(SIZE, 512);
        let power: Vec<PowerCut> = images
            .iter()
            .map(|image| PowerCut::with_image(&supply, info.clone(), image.clone()))
            .collect();
        let named = power.iter().enumerate();
        Self {
            executor: Executor::new(seed),
            disks: named
                .map(|(number, power)| disk(&format!("disk{number}"), power.clone()))
                .collect(),
            supply,
            power,
        }
    }

    fn images(&self) -> Vec<SparseImage> {
        self.power.iter().map(PowerCut::image).collect()
    }

    fn change(&self, change: &Change) -> Result<()> {
        let spawner = self.executor.spawner();
        self.executor.block_on((change.run)(Machine {
            disks: &self.disks,
            spawner: &spawner,
            members: change.members,
            seed: 7,
        }))
    }

    /// Opens the group for writing, which mends it.
    fn open(&self) -> Result<Option<Group>> {
        let spawner = self.executor.spawner();
        self.executor.block_on(async {
            let mut scan = scan(&self.disks, &spawner).await;
            let Some(found) = (!scan.groups.is_empty()).then(|| scan.take("tank")) else {
                return Ok(None);
            };
            Group::open(found?, host(8), &spawner).await.map(Some)
        })
    }

    /// The state that is on the disks, which must be free of problems.
    fn state(&self) -> Option<VolumeGroup> {
        let spawner = self.executor.spawner();
        let scan = self.executor.block_on(scan(&self.disks, &spawner));
        assert_eq!(scan.problems, Vec::<String>::new());
        let found = scan.groups.first()?;
        assert_eq!(found.problems(), Vec::<String>::new());
        Some(found.model().clone())
    }
}

/// The disks before a change: the first `members` of them in a group with a volume.
fn before(members: usize) -> Vec<SparseImage> {
    let rig = Rig::new(0, &vec![SparseImage::default(); DISKS]);
    if members > 0 {
        let spawner = rig.executor.spawner();
        rig.executor.block_on(async {
            let disks = &rig.disks[..members];
            let group = Group::create("tank", disks, &options(), host(1), &spawner).await;
            let mut group = group.expect("the group is made");
            let new = NewVolume::linear("old", Amount::Bytes(2 * MIB));
            let made = group.create_volume(&new, &spawner).await;
            made.expect("the volume is made");
        });
    }
    rig.images()
}

/// Times and sequence numbers apart: a group that was opened and mended counts on.
fn essence(state: Option<VolumeGroup>) -> Option<VolumeGroup> {
    state.map(|mut model| {
        model.origin = Default::default();
        model.seqno = 0;
        model
            .logical_volumes
            .iter_mut()
            .for_each(|lv| std::sync::Arc::make_mut(lv).creation_time = None);
        model
    })
}

fn cut_everywhere(change: &Change, seed: u64) {
    let images = before(change.members);
    let rig = Rig::new(seed, &images);
    let old = essence(rig.state());
    rig.change(change).expect("the change works");
    let (new, steps) = (essence(rig.state()), rig.supply.steps());
    let allowed = |state: &Option<VolumeGroup>| {
        *state == old || *state == new || is_between(change, state, &old)
    };
    assert_ne!(old, new);
    for step in 0..=steps {
        let rig = Rig::new(seed << 16 | step, &images);
        rig.supply.cut_after(step);
        let acknowledged = rig.change(change).is_ok();
        rig.supply.power_on();
        // The power goes again while the damage is mended.
        rig.supply.cut_after(seed % 7);
        let _ = rig.open();
        rig.supply.power_on();
        let opened = rig.open().expect("the group opens");
        let opened = essence(opened.map(|group| group.model().clone()));
        let what = format!("{} cut at step {step} of {steps}", change.name);
        assert!(allowed(&opened), "{what}: neither old nor new: {opened:#?}");
        assert!(
            !acknowledged || opened == new,
            "{what}: it was acknowledged"
        );
        assert_eq!(essence(rig.state()), opened, "{what}: it stays what it was");
    }
}

/// Removing a group is two changes here: between them it has no volume.
fn is_between(change: &Change, state: &Option<VolumeGroup>, old: &Option<VolumeGroup>) -> bool {
    let mut between = old.clone();
    if let Some(model) = &mut between {
        model.logical_volumes.clear();
    }
    change.name == "remove the group" && *state == between
}

#[test]
fn a_cut_leaves_the_old_or_the_new_state() {
    for_each_seed(3, |seed| {
        for change in &CHANGES {
            cut_everywhere(change, seed);
        }
    });
}

#[test]
fn the_ring_goes_round() {
    let images = before(1);
    let rig = Rig::new(3, &images);
    let spawner = rig.executor.spawner();
    let mut group = rig.open().expect("opens").expect("is there");
    for round in 0..600 {
        let bytes = (1 + round % 6) * MIB;
        let resized = group.resize_volume("old", Amount::Bytes(bytes), &[], &spawner);
        rig.executor.block_on(resized).expect("resizes");
    }
    assert_eq!(rig.state().as_ref(), Some(group.model()));
}
