//! Arrays that one side gave another level, policy, size or number of legs, taken over by the other side.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use weft_raid::level::{Level, ParityLayout};
use weft_raid::{ArrayState, Consistency, Growth, MemberSize, SyncAction};
use weft_tests::data::bytes;
use weft_tests::temp_dir;

use super::guest::{guest, printed_sum, script, sum_of};
use super::ours::{Case, MIB, Ours, assembled, created};

/// An array and what becomes of it.
#[derive(Debug)]
pub(crate) struct Form {
    /// With the disks that join.
    case: Case,
    /// Members before.
    before: usize,
    growth: Growth,
    /// Disks that are left out of it afterwards.
    leaves: usize,
    /// Its disks become larger first.
    enlarged: bool,
    /// What is to be rebuilt or resynced is left to the other side.
    half: bool,
}

impl Form {
    fn new(folder: &Path, name: &str, level: Level, members: [usize; 2]) -> Self {
        let path = |member: usize| {
            weft_tests::sparse_file(folder, &format!("form-{name}-{member}"), 5 * MIB)
        };
        let case = Case {
            name: format!("form-{name}"),
            paths: (0..members[1]).map(path).collect(),
            consistency: Consistency::Bitmap,
            ..Case::new(folder, level, None, 0)
        };
        Self {
            case,
            before: members[0],
            growth: Growth::default(),
            leaves: 0,
            enlarged: false,
            half: false,
        }
    }

    fn layout(mut self, layout: ParityLayout) -> Self {
        self.case.layout = Some(layout);
        self
    }

    fn consistency(mut self, consistency: Consistency) -> Self {
        self.case.consistency = consistency;
        self
    }

    fn level(mut self, level: Level) -> Self {
        self.growth.level = Some(level);
        self
    }

    fn policy(mut self, consistency: Consistency) -> Self {
        self.growth.consistency = Some(consistency);
        self
    }

    fn legs(mut self, legs: u32) -> Self {
        self.growth.members = Some(legs);
        self
    }

    fn enlarged(mut self) -> Self {
        self.growth.size = Some(MemberSize::Max);
        self.enlarged = true;
        self
    }

    fn half(mut self) -> Self {
        self.half = true;
        self
    }

    fn leaves(mut self, disks: usize) -> Self {
        self.leaves = disks;
        self
    }

    /// The case before disks join.
    fn first(&self) -> Case {
        let mut first = self.case.clone();
        first.paths.truncate(self.before);
        first
    }

    /// Those that it has afterwards.
    fn members<'a, T>(&self, disks: &'a [T]) -> &'a [T] {
        &disks[..disks.len() - self.leaves]
    }

    fn level_afterwards(&self) -> Level {
        self.growth.level.unwrap_or(self.case.level)
    }
}

/// What we change.
pub(crate) fn ours(folder: &Path) -> Vec<Form> {
    let new = |name: &str, level, members| Form::new(folder, name, level, members);
    vec![
        new("pair", Level::Raid1, [2, 2]).level(Level::Raid5),
        new("six", Level::Raid5, [3, 4])
            .layout(ParityLayout::LeftAsymmetric)
            .consistency(Consistency::Ppl)
            .level(Level::Raid6)
            .half(),
        new("five", Level::Raid6, [4, 4])
            .layout(ParityLayout::LeftSymmetric6)
            .level(Level::Raid5)
            .leaves(1),
        new("parity", Level::Raid0, [2, 3]).level(Level::Raid5),
        // Its parity is never made.
        new("four", Level::Raid0, [2, 2]).level(Level::Raid4).half(),
        new("stripes", Level::Raid5, [3, 3])
            .layout(ParityLayout::ParityLast)
            .level(Level::Raid0)
            .leaves(1),
        new("legs", Level::Raid1, [2, 3]).legs(3).half(),
        new("size", Level::Raid6, [4, 4])
            .layout(ParityLayout::LeftSymmetric)
            .enlarged()
            .half(),
        new("ppl", Level::Raid5, [3, 3]).policy(Consistency::Ppl),
    ]
}

fn enlarge(paths: &[PathBuf]) -> Result<()> {
    for path in paths {
        let file = std::fs::File::options().write(true).open(path)?;
        file.set_len(7 * MIB)?;
    }
    Ok(())
}

/// Makes the array and changes it; what it holds then.
fn changed(form: &Form, seed: u64) -> Result<Vec<u8>> {
    let first = form.first();
    if !form.enlarged {
        return created(&first, async |ours| change(ours, form, seed).await);
    }
    created(&first, async |ours| ours.stop().await)?;
    enlarge(&first.paths)?;
    assembled(&first.paths, async |ours| change(ours, form, seed).await)
}

async fn change(ours: &Ours, form: &Form, seed: u64) -> Result<Vec<u8>> {
    ours.fill(seed).await?;
    let mut data = bytes(seed, ours.size());
    let joining = form.case.paths[form.before..].iter().zip(70..);
    // Nothing waits beside stripes.
    let early = form.case.level != Level::Raid0;
    if early {
        for (path, id) in joining.clone() {
            ours.add(path, [id; 16]).await?;
        }
    }
    ours.grow(&form.growth).await?;
    if !early {
        for (path, id) in joining {
            ours.add(path, [id; 16]).await?;
        }
    }
    match form.half {
        true => drop(ours.step_by(256 << 10).await?),
        false => ours.sync().await?,
    }
    let size = ours.size();
    let patch = bytes(99, 70_144);
    for at in [512 << 10, size - (512 << 10)] {
        ours.write(at as u64, &patch).await?;
        data.resize(size, 0);
        data[at..at + patch.len()].copy_from_slice(&patch);
    }
    if form.enlarged {
        // What is new holds whatever was there.
        data = ours.read(0, size).await?;
    }
    ours.stop().await?;
    Ok(data)
}

fn cases(forms: &[Form]) -> Vec<Case> {
    forms.iter().map(|form| form.case.clone()).collect()
}

/// We change them, the kernel takes them over, and we take them back.
pub(crate) fn ours_first(forms: &[Form]) -> Result<()> {
    let folder = temp_dir();
    let mut held = Vec::new();
    for (seed, form) in (0..).zip(forms) {
        held.push(changed(form, seed)?);
        for path in form.members(&form.case.paths) {
            weft_tests::run("mdadm", ["--examine".as_ref(), path.as_os_str()])?;
        }
    }
    let (guest, disks) = guest("forms-ours", &cases(forms));
    let mut lines = Vec::new();
    for (number, (form, disks)) in forms.iter().zip(&disks).enumerate() {
        let md = format!("md{number}");
        let left = form.members(disks).join(" ");
        lines.push(format!(
            "mdadm --assemble --run /dev/{md} {left}; mdadm --readwrite /dev/{md} 2>&- || true"
        ));
        lines.push(format!(
            "echo {md} is $(cat /sys/block/{md}/md/level) $(cat /sys/block/{md}/md/consistency_policy)"
        ));
        lines.push(format!(
            "mended {md}; check {md}; sum {md}; mdadm --stop /dev/{md}"
        ));
    }
    let output = guest.run(&script(&lines))?.success();
    for (number, (form, data)) in forms.iter().zip(&held).enumerate() {
        let level = form.level_afterwards();
        let is = format!("md{number} is raid{}", level.number());
        ensure!(output.contains(&is), "{form:?}\n{output}");
        if let Some(policy) = form.growth.consistency {
            let has = format!("{is} {}", policy.name());
            ensure!(output.contains(&has), "{form:?}\n{output}");
        }
        let theirs = printed_sum(&output, number, 0)?;
        ensure!(theirs == sum_of(folder.path(), data)?, "{form:?}");
        let parity_is_away = form.case.name == "form-four";
        if level != Level::Raid0 && !parity_is_away {
            let scrubbed = format!("md{number} mismatches 0");
            ensure!(output.contains(&scrubbed), "{form:?}\n{output}");
        }
        assembled(form.members(&form.case.paths), async |ours| {
            let status = ours.array.status();
            ensure!(status.level == level, "{status:?}");
            let degraded = status.state == ArrayState::Degraded;
            ensure!(degraded == parity_is_away, "{status:?}");
            ensure!(status.sync.action == SyncAction::Idle, "{status:?}");
            ensure!(ours.read(0, data.len()).await? == *data, "{form:?}");
            ours.stop().await
        })?;
    }
    Ok(())
}

/// What the kernel changes, with mdadm's words for it and what we are to find.
fn theirs(folder: &Path) -> Vec<(Form, &'static str)> {
    let new = |name: &str, level, members| Form::new(folder, name, level, members);
    vec![
        (
            new("pair", Level::Raid1, [2, 2]).level(Level::Raid5),
            "--level=5",
        ),
        (
            new("six", Level::Raid5, [3, 4])
                .layout(ParityLayout::LeftSymmetric)
                .level(Level::Raid6),
            "--level=6 --raid-devices=4 --layout=preserve",
        ),
        (
            new("four", Level::Raid0, [2, 2]).level(Level::Raid4),
            "--level=4",
        ),
        (
            new("legs", Level::Raid1, [2, 3]).legs(3),
            "--raid-devices=3",
        ),
    ]
}

/// The kernel changes them, and we take them over.
pub(crate) fn theirs_first(folder: &Path) -> Result<()> {
    let forms = theirs(folder);
    let cases: Vec<Case> = forms.iter().map(|(form, _)| form.case.clone()).collect();
    let (guest, disks) = guest("forms-theirs", &cases);
    let mut lines = Vec::new();
    for (number, ((form, words), disks)) in forms.iter().zip(&disks).enumerate() {
        let (md, name) = (format!("md{number}"), &form.case.name);
        let (members, joining) = disks.split_at(form.before);
        lines.push(format!(
            "yes | mdadm --create /dev/{md} --name={name} {} {}; settled {md}",
            form.first().mdadm(),
            members.join(" ")
        ));
        lines.push(format!(
            "dd if=/dev/urandom of=/dev/{md} bs=1M status=none 2>&- || true"
        ));
        if !joining.is_empty() {
            lines.push(format!("mdadm /dev/{md} --add {}", joining.join(" ")));
        }
        lines.push(format!("mdadm --grow /dev/{md} {words}"));
        lines.push(format!("sum {md}; mdadm --stop /dev/{md}"));
    }
    let output = guest.run(&script(&lines))?.success();
    let scratch = temp_dir();
    for (number, (form, _)) in forms.iter().enumerate() {
        let theirs = printed_sum(&output, number, 0)?;
        assembled(&form.case.paths, async |ours| {
            let status = ours.array.status();
            ensure!(status.level == form.level_afterwards(), "{status:?}");
            let data = ours.read(0, ours.size()).await?;
            ensure!(sum_of(scratch.path(), &data)? == theirs, "{form:?}");
            ours.sync().await?;
            let parity_is_away = form.case.name == "form-four";
            let degraded = ours.array.status().state == ArrayState::Degraded;
            ensure!(degraded == parity_is_away, "{:?}", ours.array.status());
            if !parity_is_away {
                ensure!(ours.mismatches().await? == 0, "{form:?}");
            }
            ensure!(ours.read(0, data.len()).await? == data, "{form:?}");
            ours.stop().await
        })?;
    }
    Ok(())
}
