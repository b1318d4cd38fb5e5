//! How often each cluster of the file is pointed at: what refcounts say, or what is true.

use std::ops::Range;

use weft_block::Result;

use super::core::corrupt;
use super::lane::Lane;
use super::table::Table;
use crate::format::{Geometry, refcount};

/// How often each cluster of the file is pointed at.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counts(Vec<u32>);

impl Counts {
    pub(crate) fn at(&self, cluster: u64) -> u32 {
        self.0.get(cluster as usize).copied().unwrap_or(0)
    }

    pub(crate) fn add(&mut self, clusters: Range<u64>) {
        if self.0.len() < clusters.end as usize {
            self.0.resize(clusters.end as usize, 0);
        }
        for count in &mut self.0[clusters.start as usize..clusters.end as usize] {
            *count = count.saturating_add(1);
        }
    }

    /// # Errors
    /// `Corrupt` if more pointed at one than are counted.
    pub(crate) fn remove(&mut self, clusters: Range<u64>) -> Result<()> {
        for cluster in clusters {
            let count = self.0.get_mut(cluster as usize).filter(|count| **count > 0);
            let count = count.ok_or_else(|| {
                corrupt(format!(
                    "cluster {cluster} is used more often than it is counted: check the image"
                ))
            })?;
            *count -= 1;
        }
        Ok(())
    }

    /// The largest count.
    pub(crate) fn largest(&self) -> u32 {
        self.0.iter().copied().max().unwrap_or(0)
    }

    /// Whether some of `clusters` are used.
    pub(crate) fn any(&self, clusters: Range<u64>) -> bool {
        let end = self.0.len().min(clusters.end as usize);
        let start = end.min(clusters.start as usize);
        self.0[start..end].iter().any(|&count| count > 0)
    }

    /// Clusters up to the last that is used.
    pub(crate) fn len(&self) -> u64 {
        self.0
            .iter()
            .rposition(|&count| count > 0)
            .map_or(0, |last| last as u64 + 1)
    }
}

impl Lane {
    /// All refcounts, from the file.
    pub(crate) async fn counts(&self, table: &Table) -> Result<Counts> {
        let geometry = self.core.geometry;
        let per_block = geometry.refcounts_per_block() as usize;
        let mut counts = Counts::default();
        // Behind the file's end nothing can be used, whatever a stranger counts there.
        let clusters = geometry.clusters(self.core.file_size()) as usize;
        for (index, &host) in table.entries().iter().enumerate() {
            if host == 0 || index * per_block >= clusters {
                continue;
            }
            if !geometry.is_aligned(host) || host >> 56 != 0 {
                return Err(corrupt(format!(
                    "the entry {host:#018x} of the refcount table cannot be"
                )));
            }
            let block = self.read_file(host, geometry.cluster() as usize).await?;
            counts.0.resize(index * per_block, 0);
            for within in 0..per_block {
                let count = refcount(geometry, &block, within);
                counts.0.push(u32::try_from(count).unwrap_or(u32::MAX));
            }
        }
        counts.0.truncate(counts.len() as usize);
        Ok(counts)
    }
}

/// The clusters of a refcount table and its blocks.
pub(crate) fn own_clusters(table: &Table, geometry: Geometry) -> Vec<Range<u64>> {
    let blocks = table.entries().iter().filter(|&&host| host != 0);
    let mut clusters: Vec<_> = blocks
        .map(|&host| geometry.cluster_range(host, geometry.cluster()))
        .collect();
    clusters.push(geometry.cluster_range(table.offset(), table.bytes()));
    clusters
}
