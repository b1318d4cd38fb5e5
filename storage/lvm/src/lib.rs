//! LVM2 volume groups: labels, metadata text, allocation, volumes.
