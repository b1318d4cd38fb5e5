//! Software RAID in the md 1.2 format.
