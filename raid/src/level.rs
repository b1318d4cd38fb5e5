//! Levels and layouts, by md's names and numbers.

use std::fmt;

/// A RAID level that md knows. Which of them this crate runs is for [`Geometry`](crate::geometry::Geometry) to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Level {
    /// Stripes without redundancy.
    Raid0,
    /// Mirrors.
    Raid1,
    /// Stripes with a parity member.
    Raid4,
    /// Stripes with rotating parity.
    Raid5,
    /// Stripes with two rotating parities.
    Raid6,
    /// Striped mirrors.
    Raid10,
}

impl Level {
    /// The level of md's number, if it is one of these.
    pub fn from_number(number: i32) -> Option<Self> {
        Some(match number {
            0 => Self::Raid0,
            1 => Self::Raid1,
            4 => Self::Raid4,
            5 => Self::Raid5,
            6 => Self::Raid6,
            10 => Self::Raid10,
            _ => return None,
        })
    }

    /// md's number.
    pub fn number(self) -> i32 {
        match self {
            Self::Raid0 => 0,
            Self::Raid1 => 1,
            Self::Raid4 => 4,
            Self::Raid5 => 5,
            Self::Raid6 => 6,
            Self::Raid10 => 10,
        }
    }

    /// Whether a member can be lost without losing data.
    pub fn is_redundant(self) -> bool {
        self != Self::Raid0
    }

    /// Whether data is cut into chunks.
    pub fn is_striped(self) -> bool {
        self != Self::Raid1
    }

    /// Whether its members hold rows with parity.
    pub fn has_parity(self) -> bool {
        matches!(self, Self::Raid4 | Self::Raid5 | Self::Raid6)
    }

    /// The fewest members an array of this level is made of.
    pub fn least_members(self) -> u32 {
        match self {
            Self::Raid0 | Self::Raid1 => 1,
            Self::Raid4 | Self::Raid5 | Self::Raid10 => 2,
            Self::Raid6 => 4,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RAID-{}", self.number())
    }
}

/// Where the parity of a row lies, and in which order its data follows. With RAID-6, P is meant, and Q follows it unless
/// said otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ParityLayout {
    /// Parity moves left, data starts at the first member.
    LeftAsymmetric,
    /// Parity moves right, data starts at the first member.
    RightAsymmetric,
    /// Parity moves left, data starts after the parity. md's default.
    LeftSymmetric,
    /// Parity moves right, data starts after the parity.
    RightSymmetric,
    /// Parity on the first member.
    ParityFirst,
    /// Parity on the last member, as in RAID-4.
    ParityLast,
    /// DDF's: as right-asymmetric, with another order in Q. RAID-6 only, as all that follow.
    DdfZeroRestart,
    /// DDF's: as left-asymmetric, one row further, with another order in Q.
    DdfNRestart,
    /// DDF's: as left-symmetric, with Q before P and another order in Q.
    DdfNContinue,
    /// RAID-5's left-asymmetric, and Q on the last member.
    LeftAsymmetric6,
    /// RAID-5's right-asymmetric, and Q on the last member.
    RightAsymmetric6,
    /// RAID-5's left-symmetric, and Q on the last member.
    LeftSymmetric6,
    /// RAID-5's right-symmetric, and Q on the last member.
    RightSymmetric6,
    /// Parity on the first member, Q on the last.
    ParityFirst6,
}

/// Each layout with md's number and mdadm's name; the first six are RAID-5's too.
const LAYOUTS: [(ParityLayout, u32, &str); 14] = [
    (ParityLayout::LeftAsymmetric, 0, "left-asymmetric"),
    (ParityLayout::RightAsymmetric, 1, "right-asymmetric"),
    (ParityLayout::LeftSymmetric, 2, "left-symmetric"),
    (ParityLayout::RightSymmetric, 3, "right-symmetric"),
    (ParityLayout::ParityFirst, 4, "parity-first"),
    (ParityLayout::ParityLast, 5, "parity-last"),
    (ParityLayout::DdfZeroRestart, 8, "ddf-zero-restart"),
    (ParityLayout::DdfNRestart, 9, "ddf-N-restart"),
    (ParityLayout::DdfNContinue, 10, "ddf-N-continue"),
    (ParityLayout::LeftAsymmetric6, 16, "left-asymmetric-6"),
    (ParityLayout::RightAsymmetric6, 17, "right-asymmetric-6"),
    (ParityLayout::LeftSymmetric6, 18, "left-symmetric-6"),
    (ParityLayout::RightSymmetric6, 19, "right-symmetric-6"),
    (ParityLayout::ParityFirst6, 20, "parity-first-6"),
];

/// From md's number of a RAID-5 layout to that of the same with Q on the last member.
const OF_RAID6: u32 = 16;

impl ParityLayout {
    /// The layouts of a level, in the order of md's numbers: six of RAID-5, fourteen of RAID-6, none of others.
    pub fn of(level: Level) -> impl Iterator<Item = Self> {
        let count = match level {
            Level::Raid5 => 6,
            Level::Raid6 => LAYOUTS.len(),
            _ => 0,
        };
        LAYOUTS[..count].iter().map(|(layout, ..)| *layout)
    }

    /// The level's layout of md's number.
    pub fn from_number(level: Level, number: u32) -> Option<Self> {
        Self::of(level).find(|layout| layout.number() == number)
    }

    /// The level's layout that mdadm calls `name`.
    pub fn from_name(level: Level, name: &str) -> Option<Self> {
        Self::of(level).find(|layout| layout.name() == name)
    }

    fn row(self) -> &'static (Self, u32, &'static str) {
        let own = |row: &&(Self, u32, &str)| row.0 == self;
        LAYOUTS.iter().find(own).expect("every layout has its row")
    }

    /// md's number.
    pub fn number(self) -> u32 {
        self.row().1
    }

    /// RAID-5's layout with Q on a member more, behind the others.
    pub(crate) fn with_q_last(self) -> Option<Self> {
        match self {
            // P is behind the data already, and Q behind it.
            Self::ParityLast => Some(Self::ParityLast),
            layout => Self::from_number(Level::Raid6, layout.number() + OF_RAID6),
        }
    }

    /// RAID-6's layout without the last member, if that holds Q and nothing else.
    pub(crate) fn without_q_last(self) -> Option<Self> {
        match self {
            Self::ParityLast => Some(Self::ParityLast),
            layout => Self::from_number(Level::Raid5, layout.number().checked_sub(OF_RAID6)?),
        }
    }

    /// The name that mdadm uses.
    pub fn name(self) -> &'static str {
        self.row().2
    }
}

/// How many copies RAID-10 keeps of a chunk, and where: `near` on members that follow each other in one row, each of them
/// `far` times in rows apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CopiesLayout {
    /// Copies in one row.
    pub near: u32,
    /// Copies in rows apart, on members shifted by `near`.
    pub far: u32,
    /// The far copies lie in the next row, not in another part of the members.
    pub offset: bool,
}

impl CopiesLayout {
    /// md's default: two copies side by side.
    pub const NEAR_2: Self = Self {
        near: 2,
        far: 1,
        offset: false,
    };

    /// The layout of md's word. Its far sets (bits 17 and 18) are not known here.
    pub fn from_number(number: u32) -> Option<Self> {
        let layout = Self {
            near: number & 0xff,
            far: number >> 8 & 0xff,
            offset: number & 0x1_0000 != 0,
        };
        let known = number >> 17 == 0 && layout.near > 0 && layout.far > 0;
        known.then_some(layout)
    }

    /// md's word.
    pub fn number(self) -> u32 {
        self.near | self.far << 8 | u32::from(self.offset) << 16
    }

    /// The layout that mdadm writes `n2`, `f2` or `o2`.
    pub fn from_name(name: &str) -> Option<Self> {
        let (kind, count) = name.split_at_checked(1)?;
        let count = count
            .parse()
            .ok()
            .filter(|&count| (1..=255).contains(&count))?;
        let (near, far, offset) = match kind {
            "n" => (count, 1, false),
            "f" => (1, count, false),
            "o" => (1, count, true),
            _ => return None,
        };
        Some(Self { near, far, offset })
    }

    /// Copies of every chunk.
    pub fn copies(self) -> u32 {
        self.near * self.far
    }
}

/// How a RAID-0 array of unequal members turns a zone's chunks into members. With equal members the two are one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ZoneLayout {
    /// The member follows from the chunk's number in the array (kernels before 3.14).
    Original,
    /// The member follows from the chunk's number in its zone (kernels from 3.14 on).
    Alternate,
}

impl ZoneLayout {
    /// The layout of md's number.
    pub fn from_number(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::Original),
            2 => Some(Self::Alternate),
            _ => None,
        }
    }

    /// md's number.
    pub fn number(self) -> u32 {
        match self {
            Self::Original => 1,
            Self::Alternate => 2,
        }
    }
}

/// The layout word's meaning for a level's display: md's name, or its number.
pub fn layout_name(level: Level, number: u32) -> String {
    let known = match level {
        Level::Raid5 | Level::Raid6 => {
            ParityLayout::from_number(level, number).map(|layout| layout.name().to_owned())
        }
        Level::Raid0 => ZoneLayout::from_number(number).map(|layout| match layout {
            ZoneLayout::Original => "original".to_owned(),
            ZoneLayout::Alternate => "alternate".to_owned(),
        }),
        Level::Raid10 => Some(raid10_name(number)),
        Level::Raid1 | Level::Raid4 => None,
    };
    known.unwrap_or_else(|| number.to_string())
}

fn raid10_name(number: u32) -> String {
    let (near, far, offset) = (number & 0xff, (number >> 8) & 0xff, number & 0x1_0000 != 0);
    match (near, far, offset) {
        (near, 1, _) => format!("near={near}"),
        (1, far, true) => format!("offset={far}"),
        (1, far, false) => format!("far={far}"),
        _ => format!("{number:#x}"),
    }
}
