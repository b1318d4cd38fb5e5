//! Changes of shape that one side begins and the other side goes on with.

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use weft_raid::geometry::Shape;
use weft_raid::level::{Level, ParityLayout};
use weft_raid::superblock::{SUPER_BYTE, SUPER_BYTES, Superblock};
use weft_raid::{ArrayState, Consistency, Growth, Progress, SyncAction};
use weft_tests::data::bytes;
use weft_tests::temp_dir;

use super::guest::{guest, printed_sum, script, sum_of, text, write};
use super::ours::{CHUNK, Case, Ours, assembled, created};

/// How a change of shape is left by who began it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    /// Stopped, with some of it done.
    Stopped,
    /// Crashed, with some of it done.
    Crashed,
    /// Stopped, without a member that has failed meanwhile.
    Degraded,
    /// Stopped, with nothing of it done.
    Begun,
    /// Stopped, with some of it done and some of a new member made on the way: it holds the other parity.
    Becoming,
    /// Stopped, with all of it done.
    Done,
}

/// An array and what is to become of it.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    /// With the disks that join.
    case: Case,
    /// Members before.
    before: usize,
    growth: Growth,
    left: Left,
    /// Its members have room behind their data, and the last bytes are moved first.
    backwards: bool,
}

/// The member that fails.
const FAILED: usize = 1;
/// Sectors of each member that the kernel moves.
const PAUSE: u32 = 2560;

impl Change {
    fn new(folder: &Path, level: Level, members: [usize; 2], left: Left) -> Self {
        let name = format!("shape-{}-{left:?}", level.number());
        let layout = (level != Level::Raid4).then_some(ParityLayout::LeftSymmetric);
        Self {
            case: Case {
                consistency: Consistency::Bitmap,
                ..Case::logged(folder, &name, ParityLayout::LeftSymmetric, members[1])
            },
            before: members[0],
            growth: Growth::default(),
            left,
            backwards: false,
        }
        .of(level, layout, members)
    }

    fn of(mut self, level: Level, layout: Option<ParityLayout>, members: [usize; 2]) -> Self {
        (self.case.level, self.case.layout) = (level, layout);
        if members[0] < members[1] {
            self.growth.members = Some(members[1] as u32);
        }
        self
    }

    fn level(mut self, level: Level) -> Self {
        self.growth.level = Some(level);
        self
    }

    fn layout(mut self, layout: ParityLayout) -> Self {
        self.growth.layout = Some(layout);
        self
    }

    fn chunk(mut self, chunk: u64) -> Self {
        self.growth.chunk = Some(chunk);
        self
    }

    fn consistency(mut self, consistency: Consistency) -> Self {
        self.case.consistency = consistency;
        self
    }

    fn backwards(mut self) -> Self {
        self.backwards = true;
        self.consistency(Consistency::Resync)
    }

    /// The case before disks join.
    fn first(&self) -> Case {
        let mut first = self.case.clone();
        first.paths.truncate(self.before);
        first
    }

    fn is_degraded(&self) -> bool {
        self.left == Left::Degraded
    }

    /// Those of its disks that are left.
    fn left<T: Clone>(&self, disks: &[T]) -> Vec<T> {
        let mut disks = disks.to_vec();
        if self.is_degraded() {
            disks.remove(FAILED);
        }
        disks
    }

    /// mdadm's arguments for the change.
    fn mdadm(&self) -> String {
        let level = self
            .growth
            .level
            .map(|n| format!(" --level={}", n.number()));
        let members = self.growth.members.map(|n| format!(" --raid-devices={n}"));
        let chunk = self.growth.chunk.map(|n| format!(" --chunk={}", n >> 10));
        let layout = self.growth.layout.map(ParityLayout::name);
        let layout = layout.map(|name| format!(" --layout={name}"));
        [level, members, chunk, layout]
            .into_iter()
            .flatten()
            .collect()
    }
}

fn cases(changes: &[Change]) -> Vec<Case> {
    changes.iter().map(|change| change.case.clone()).collect()
}

/// What we begin.
pub(crate) fn ours(folder: &Path) -> Vec<Change> {
    let new = |level, members, left| Change::new(folder, level, members, left);
    vec![
        new(Level::Raid5, [3, 4], Left::Crashed).consistency(Consistency::Ppl),
        new(Level::Raid5, [3, 3], Left::Stopped).chunk(16 << 10),
        new(Level::Raid5, [3, 3], Left::Begun)
            .layout(ParityLayout::ParityLast)
            .backwards(),
        new(Level::Raid6, [4, 5], Left::Stopped),
        new(Level::Raid6, [4, 4], Left::Crashed)
            .chunk(128 << 10)
            .layout(ParityLayout::LeftSymmetric6),
        new(Level::Raid4, [3, 4], Left::Degraded),
        new(Level::Raid5, [3, 4], Left::Done)
            .chunk(16 << 10)
            .layout(ParityLayout::RightAsymmetric),
    ]
}

/// What the kernel begins.
pub(crate) fn theirs(folder: &Path) -> Vec<Change> {
    let new = |level, members, left| Change::new(folder, level, members, left);
    vec![
        new(Level::Raid5, [3, 4], Left::Stopped),
        new(Level::Raid5, [3, 3], Left::Degraded).chunk(32 << 10),
        new(Level::Raid6, [4, 5], Left::Stopped),
        new(Level::Raid5, [3, 3], Left::Begun).layout(ParityLayout::RightAsymmetric),
        new(Level::Raid5, [3, 3], Left::Crashed)
            .chunk(16 << 10)
            .backwards(),
        new(Level::Raid4, [3, 4], Left::Crashed),
        new(Level::Raid5, [3, 4], Left::Becoming).level(Level::Raid6),
    ]
}

/// Lets the array use half of its members, so that there is room behind its data.
fn shrink(paths: &[PathBuf]) -> Result<()> {
    for path in paths {
        let file = std::fs::File::options().read(true).write(true).open(path)?;
        let mut block = vec![0; SUPER_BYTES];
        file.read_exact_at(&mut block, SUPER_BYTE)?;
        let mut superblock = Superblock::parse(&block, file.metadata()?.len() / 512)?;
        superblock.size /= 2;
        file.write_all_at(&superblock.to_bytes(512), SUPER_BYTE)?;
    }
    Ok(())
}

/// Makes the array and begins the change; what it holds then.
fn begun(change: &Change, seed: u64) -> Result<Vec<u8>> {
    let first = change.first();
    if !change.backwards {
        return created(&first, async |ours| begin(ours, change, seed).await);
    }
    created(&first, async |ours| ours.stop().await)?;
    shrink(&first.paths)?;
    assembled(&first.paths, async |ours| begin(ours, change, seed).await)
}

/// mdadm reads in every superblock what is to become of the array.
fn examined(change: &Change) -> Result<()> {
    let mut wanted = vec![
        "- correct".to_owned(),
        "Reshape pos'n : ".into(),
        "New Offset : ".into(),
    ];
    if change.backwards {
        // Array sectors in KiB, of three members of which one holds parity.
        wanted.push("Reshape pos'n : 5120 (".into());
    }
    if let Some(members) = change.growth.members {
        let more = members as usize - change.before;
        wanted.push(format!(
            "Delta Devices : {more} ({}->{members})",
            change.before
        ));
    }
    if let Some(chunk) = change.growth.chunk {
        wanted.push(format!("New Chunksize : {}K", chunk >> 10));
    }
    if let Some(layout) = change.growth.layout {
        wanted.push(format!("New Layout : {}", layout.name()));
    }
    for path in change.left(&change.case.paths) {
        let output = weft_tests::run("mdadm", ["--examine", text(&path)?])?;
        for wanted in &wanted {
            ensure!(output.contains(wanted), "{wanted:?} is not in:\n{output}");
        }
    }
    Ok(())
}

/// Begins the change, moves some of it, and writes to both sides of the position; what the array holds then.
async fn begin(ours: &Ours, change: &Change, seed: u64) -> Result<Vec<u8>> {
    ours.fill(seed).await?;
    let mut data = bytes(seed, ours.size());
    for (path, id) in change.case.paths[change.before..].iter().zip(60..) {
        ours.add(path, [id; 16]).await?;
    }
    ours.grow(&change.growth).await?;
    let mut progress = ours.array.progress();
    ensure!(progress.action == SyncAction::Reshape, "{progress:?}");
    let is_reached = |progress: Progress| match change.left {
        Left::Begun => true,
        Left::Done => progress.is_idle(),
        _ => progress.done * 3 > progress.total,
    };
    while !is_reached(progress) {
        progress = ours.step_by(256 << 10).await?;
    }
    if change.is_degraded() {
        ours.fail(&change.case.paths[FAILED]).await?;
    }
    for (number, at) in [4096, data.len() / 3, data.len() - 300_032]
        .into_iter()
        .enumerate()
    {
        let at = at / 512 * 512;
        let patch = bytes(100 + number as u64, 200_192);
        ours.write(at as u64, &patch).await?;
        data[at..at + patch.len()].copy_from_slice(&patch);
    }
    if change.left != Left::Crashed {
        ours.stop().await?;
    }
    Ok(data)
}

/// We begin, the kernel goes on, and we take the array back.
pub(crate) fn ours_first(changes: &[Change]) -> Result<()> {
    let folder = temp_dir();
    let mut held = Vec::new();
    for (seed, change) in (0..).zip(changes) {
        held.push(begun(change, seed)?);
        if change.left != Left::Done {
            examined(change)?;
        }
    }
    let (guest, disks) = guest("reshape-ours", &cases(changes));
    let mut lines = Vec::new();
    for (number, (change, disks)) in changes.iter().zip(&disks).enumerate() {
        let md = format!("md{number}");
        let left = change.left(disks).join(" ");
        // Debian starts arrays without a write until they are used.
        lines.push(format!(
            "mdadm --assemble --run /dev/{md} {left}; mdadm --readwrite /dev/{md}"
        ));
        lines.push(write(number, 'k', 40, 33));
        lines.push(format!("reshaped {md}"));
        let told = format!("dmesg | grep '{md}: reshape done'");
        lines.push(match change.left {
            Left::Done => format!("! {told}"),
            _ => told,
        });
        lines.push(format!("sum {md}; check {md}; mdadm --stop /dev/{md}"));
    }
    let output = guest.run(&script(&lines))?.success();
    for (number, (change, data)) in changes.iter().zip(&mut held).enumerate() {
        let scrubbed = format!("md{number} mismatches 0");
        ensure!(output.contains(&scrubbed), "{change:?}\n{output}");
        data[40 * 4096..73 * 4096].fill(b'k');
        assembled(&change.left(&change.case.paths), async |ours| {
            let status = ours.array.status();
            ensure!(status.sync.action != SyncAction::Reshape, "{status:?}");
            whole(ours, change, data).await?;
            let sum = sum_of(folder.path(), data)?;
            let theirs = printed_sum(&output, number, 0)?;
            ensure!(theirs == sum, "{change:?} is read wrong by the kernel");
            ours.stop().await
        })?;
    }
    Ok(())
}

/// The kernel begins, we go on, and it takes the array back.
pub(crate) fn theirs_first(changes: &[Change]) -> Result<()> {
    let folder = temp_dir();
    let output = theirs_begun(changes)?;
    let mut sums = Vec::new();
    for (number, change) in changes.iter().enumerate() {
        let theirs = printed_sum(&output, number, 0)?;
        sums.push(go_on(change, &theirs, folder.path())?);
    }
    let (guest, disks) = guest("reshape-theirs-again", &cases(changes));
    let mut lines = Vec::new();
    for (number, disks) in disks.iter().enumerate() {
        let md = format!("md{number}");
        lines.push(format!(
            "mdadm --assemble /dev/{md} {}; sum {md}; check {md}; mdadm --stop /dev/{md}",
            disks.join(" ")
        ));
    }
    lines.push("! dmesg | grep 'reshape of RAID array'".into());
    let output = guest.run(&script(&lines))?.success();
    for (number, (change, sum)) in changes.iter().zip(&sums).enumerate() {
        let read = printed_sum(&output, number, 0)?;
        ensure!(read == *sum, "{change:?} goes back wrong");
        let scrubbed = format!("md{number} mismatches 0");
        ensure!(output.contains(&scrubbed), "{change:?}\n{output}");
    }
    Ok(())
}

/// Makes the arrays in the guest, changes their shape up to some place, and writes to both sides of it. What was printed.
fn theirs_begun(changes: &[Change]) -> Result<String> {
    let (guest, disks) = guest("reshape-theirs", &cases(changes));
    let (mut lines, mut last) = (Vec::new(), Vec::new());
    for (number, (change, disks)) in changes.iter().zip(&disks).enumerate() {
        let (md, name) = (format!("md{number}"), &change.case.name);
        let (members, joining) = disks.split_at(change.before);
        let room = match change.backwards {
            true => "--data-offset=64K --size=3M",
            false => "",
        };
        lines.push(format!(
            "yes | mdadm --create /dev/{md} --name={name} {room} {} {}; settled {md}",
            change.first().mdadm(),
            members.join(" ")
        ));
        lines.push(format!(
            "dd if=/dev/urandom of=/dev/{md} bs=1M status=none 2>&- || true"
        ));
        if !joining.is_empty() {
            lines.push(format!("mdadm /dev/{md} --add {}", joining.join(" ")));
        }
        let sectors = if change.left == Left::Begun { 0 } else { PAUSE };
        lines.push(format!("echo {sectors} >/sys/block/{md}/md/sync_max"));
        lines.push(format!("mdadm --grow /dev/{md}{}", change.mdadm()));
        lines.push(format!("reached {md} {sectors}"));
        if change.is_degraded() {
            lines.push(format!("mdadm /dev/{md} --fail {}", disks[FAILED]));
        }
        let writes = ('a'..).zip([1, 500, 1200]);
        let writes = writes.map(|(letter, seek)| write(number, letter, seek, 99));
        lines.extend(writes.clone());
        lines.push(format!("sum {md}"));
        if change.left != Left::Crashed {
            lines.push(format!("mdadm --stop /dev/{md}"));
            continue;
        }
        // It goes on, slowly, until the guest is killed, and is written with what it holds.
        let speed = format!("/sys/block/{md}/md/sync_speed");
        last.push(format!("echo 10 >{speed}_min; echo 20 >{speed}_max"));
        last.push(format!("echo 10000 >/sys/block/{md}/md/safe_mode_delay"));
        last.push(format!("echo max >/sys/block/{md}/md/sync_max"));
        last.extend(writes);
    }
    lines.append(&mut last);
    lines.push("sync; echo all is written; sleep 1000".into());
    let mut running = guest.start(&script(&lines))?;
    running.wait_for("all is written")?;
    Ok(running.output())
}

/// We go on with what the kernel began; the sum of what the array holds then.
fn go_on(change: &Change, theirs: &str, folder: &Path) -> Result<String> {
    let mut data = Vec::new();
    // The one that has failed meanwhile is there, and is left out.
    assembled(&change.case.paths, async |ours| {
        let status = ours.array.status();
        let degraded = status.state == ArrayState::Degraded;
        let lacks = change.is_degraded() || change.left == Left::Becoming;
        ensure!(degraded == lacks, "{status:?}");
        // All may have been moved when the guest was killed.
        let parities = if change.case.level == Level::Raid6 {
            2
        } else {
            1
        };
        let member = ours.array.geometry().member_size() as usize;
        data = ours.read(0, member * (change.before - parities)).await?;
        ensure!(sum_of(folder, &data)? == theirs, "{change:?} is read wrong");
        let is_begun = change.left == Left::Begun;
        let goes_on =
            status.sync.action == SyncAction::Reshape && (status.sync.done == 0) == is_begun;
        // After a crash members are made to agree first.
        ensure!(goes_on || change.left == Left::Crashed, "{status:?}");
        let mut at = 0;
        loop {
            let patch = bytes(at as u64, 70_144);
            ours.write(at as u64, &patch).await?;
            data[at..at + patch.len()].copy_from_slice(&patch);
            at = (at + 3_555_328) % (data.len() - patch.len());
            if ours.step_by(256 << 10).await?.is_idle() {
                break;
            }
        }
        whole(ours, change, &mut data).await?;
        ours.stop().await
    })?;
    sum_of(folder, &data)
}

/// The change is done and the array is what was to become of it, once a member that failed is back.
async fn whole(ours: &Ours, change: &Change, data: &mut Vec<u8>) -> Result<()> {
    let geometry = ours.array.geometry();
    let members = change.case.paths.len() as u32;
    let chunk = change.growth.chunk.unwrap_or(CHUNK);
    ensure!(geometry.members() == members, "{change:?}: {geometry:?}");
    let level = change.growth.level.unwrap_or(change.case.level);
    ensure!(geometry.level() == level, "{change:?}: {geometry:?}");
    let Shape::Parity(rows) = geometry.shape() else {
        anyhow::bail!("{change:?} has parity");
    };
    ensure!(rows.chunk() == chunk, "{change:?}: {geometry:?}");
    ensure!(ours.size() as u64 == geometry.size(), "{change:?}");
    // What is more than before are zeroes.
    data.resize(ours.size(), 0);
    ensure!(ours.read(0, data.len()).await? == *data, "{change:?}");
    if change.is_degraded() {
        ours.add(&change.case.paths[FAILED], [90; 16]).await?;
    }
    ours.sync().await?;
    ensure!(ours.array.status().state != ArrayState::Degraded);
    ensure!(ours.mismatches().await? == 0, "{change:?}");
    ensure!(ours.read(0, data.len()).await? == *data, "{change:?}");
    Ok(())
}
