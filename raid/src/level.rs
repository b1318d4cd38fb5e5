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

/// Where the parity of a row lies, and in which order its data follows: md's six layouts of RAID-5.
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
}

impl ParityLayout {
    /// All six, in md's order.
    pub const ALL: [Self; 6] = [
        Self::LeftAsymmetric,
        Self::RightAsymmetric,
        Self::LeftSymmetric,
        Self::RightSymmetric,
        Self::ParityFirst,
        Self::ParityLast,
    ];

    /// The layout of md's number.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }

    /// md's number.
    pub fn number(self) -> u32 {
        match self {
            Self::LeftAsymmetric => 0,
            Self::RightAsymmetric => 1,
            Self::LeftSymmetric => 2,
            Self::RightSymmetric => 3,
            Self::ParityFirst => 4,
            Self::ParityLast => 5,
        }
    }

    /// The name that mdadm uses.
    pub fn name(self) -> &'static str {
        match self {
            Self::LeftAsymmetric => "left-asymmetric",
            Self::RightAsymmetric => "right-asymmetric",
            Self::LeftSymmetric => "left-symmetric",
            Self::RightSymmetric => "right-symmetric",
            Self::ParityFirst => "parity-first",
            Self::ParityLast => "parity-last",
        }
    }

    /// The layout that mdadm calls `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|layout| layout.name() == name)
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
        Level::Raid5 => ParityLayout::from_number(number).map(|layout| layout.name().to_owned()),
        Level::Raid0 => ZoneLayout::from_number(number).map(|layout| match layout {
            ZoneLayout::Original => "original".to_owned(),
            ZoneLayout::Alternate => "alternate".to_owned(),
        }),
        Level::Raid10 => Some(raid10_name(number)),
        Level::Raid1 | Level::Raid4 | Level::Raid6 => None,
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
