//! Cuts a list of files into chunks of about the same amount of work.
//!
//! The chunks depend on nothing but the list and the limits. Every file is in exactly one chunk.
//! A file that is larger than a whole chunk may be gets a chunk of its own.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::git::{FileEntry, MAX_BLOB_BYTES};

/// What a file costs beyond its bytes, in bytes; this makes many small files count.
const FILE_COST: u64 = 1024;

/// How large chunks may be and how many there should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkLimits {
    /// Most files in a chunk; 0 is taken for 1.
    pub max_files: usize,
    /// Most bytes in a chunk, of those that are looked at.
    pub max_bytes: u64,
    /// How many chunks there are at least, if there are as many files.
    pub min_chunks: usize,
}

impl Default for ChunkLimits {
    fn default() -> Self {
        Self {
            max_files: 200,
            max_bytes: 4 * 1024 * 1024,
            min_chunks: 8,
        }
    }
}

#[derive(Debug, Default)]
struct Bin {
    files: Vec<FileEntry>,
    bytes: u64,
}

/// Cuts the files into chunks; no files give no chunks. The largest files are dealt out first,
/// each to the chunk with the least work so far, and a chunk is added when none has room.
pub fn plan_chunks(files: &[FileEntry], limits: ChunkLimits) -> Vec<Vec<FileEntry>> {
    let max_files = limits.max_files.max(1);
    let mut sorted: Vec<&FileEntry> = files.iter().collect();
    sorted.sort_by_key(|file| (Reverse(looked_at(file)), file.index));

    let mut bins: Vec<Bin> = Vec::new();
    let mut open: BinaryHeap<Reverse<(u64, usize)>> = BinaryHeap::new();
    for _ in 0..first_count(files, limits) {
        open.push(Reverse((0, bins.len())));
        bins.push(Bin::default());
    }
    for file in sorted {
        let bytes = looked_at(file);
        let fits = |bin: &Bin| bin.files.is_empty() || bin.bytes + bytes <= limits.max_bytes;
        let place = match open.peek() {
            Some(Reverse((_, place))) if fits(&bins[*place]) => {
                let place = *place;
                open.pop();
                place
            }
            _ => {
                bins.push(Bin::default());
                bins.len() - 1
            }
        };
        let bin = &mut bins[place];
        bin.files.push(file.clone());
        bin.bytes += bytes;
        if bin.files.len() < max_files {
            let work = bin.bytes + FILE_COST * bin.files.len() as u64;
            open.push(Reverse((work, place)));
        }
    }
    let mut chunks: Vec<Vec<FileEntry>> = bins.into_iter().map(|bin| bin.files).collect();
    chunks.retain(|chunk| !chunk.is_empty());
    for chunk in &mut chunks {
        chunk.sort_by_key(|file| file.index);
    }
    chunks.sort_by_key(|chunk| chunk[0].index);
    chunks
}

/// How many bytes of a file are looked at.
fn looked_at(file: &FileEntry) -> u64 {
    file.size.min(MAX_BLOB_BYTES)
}

/// How many chunks to start with.
fn first_count(files: &[FileEntry], limits: ChunkLimits) -> usize {
    let bytes: u64 = files.iter().map(looked_at).sum();
    let by_bytes = usize::try_from(bytes.div_ceil(limits.max_bytes.max(1))).unwrap_or(usize::MAX);
    files
        .len()
        .div_ceil(limits.max_files.max(1))
        .max(by_bytes)
        .max(limits.min_chunks)
        .min(files.len())
}

#[cfg(test)]
mod tests {
    use super::super::testing::entry;
    use super::*;

    const LIMITS: ChunkLimits = ChunkLimits {
        max_files: 10,
        max_bytes: 5000,
        min_chunks: 4,
    };

    fn files(sizes: impl IntoIterator<Item = u64>) -> Vec<FileEntry> {
        let numbered = sizes.into_iter().enumerate();
        numbered
            .map(|(index, size)| FileEntry {
                index: index as u32,
                ..entry(&format!("f{index}"), size)
            })
            .collect()
    }

    fn indices(chunks: &[Vec<FileEntry>]) -> Vec<u32> {
        let mut all: Vec<u32> = chunks.iter().flatten().map(|file| file.index).collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn nothing_gives_nothing() {
        assert!(plan_chunks(&[], LIMITS).is_empty());
    }

    #[test]
    fn few_files_give_a_chunk_each() {
        assert_eq!(plan_chunks(&files([5]), LIMITS).len(), 1);
        assert_eq!(plan_chunks(&files([5, 0, 5]), LIMITS).len(), 3);
        assert_eq!(plan_chunks(&files([0; 9]), LIMITS).len(), 4);
    }

    #[test]
    fn limits_hold_and_every_file_is_there_once() {
        let list = files((0..997).map(|n| n * 7919 % 6000));
        let chunks = plan_chunks(&list, LIMITS);
        assert_eq!(indices(&chunks), (0..997).collect::<Vec<u32>>());
        for chunk in &chunks {
            let bytes: u64 = chunk.iter().map(looked_at).sum();
            assert!(chunk.len() <= 10 && (bytes <= 5000 || chunk.len() == 1));
        }
        assert_eq!(chunks, plan_chunks(&list, LIMITS));
    }

    #[test]
    fn work_is_balanced() {
        let list = files((0..400).map(|n| n * 31 % 900));
        let limits = ChunkLimits {
            max_files: 1000,
            max_bytes: 10_000_000,
            min_chunks: 4,
        };
        let chunks = plan_chunks(&list, limits);
        assert_eq!(chunks.len(), 4);
        let work = |c: &Vec<FileEntry>| c.iter().map(|f| looked_at(f) + FILE_COST).sum::<u64>();
        let all: Vec<u64> = chunks.iter().map(work).collect();
        assert!(all.iter().max().unwrap() - all.iter().min().unwrap() < 2000);
    }

    #[test]
    fn odd_limits_do_not_panic() {
        let limits = ChunkLimits {
            max_files: 0,
            max_bytes: 0,
            min_chunks: 0,
        };
        assert_eq!(plan_chunks(&files([1, 2, u64::MAX]), limits).len(), 3);
    }
}
