//! A table of fixed size, by hashes: what is not there is at its default, and what is lightest makes room.
//!
//! A hash has eight places. When all are taken, the row that weighs least is forgotten: somebody who fills the table with
//! names that he made up displaces others of their kind, and whoever has failed often stays.
//!
//! Memory: a part of the table is made when it is first used; all of them are [`PARTS`] * buckets * 8 rows.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
};

use super::Hash;

/// Parts with a lock of their own.
const PARTS: usize = 64;
/// Places for one hash.
const PLACES: usize = 8;

/// What a table keeps of a hash.
pub(super) trait Row: Copy + Default {
    /// How much would be lost with it, at this second; 0: nothing.
    fn weight(&self, now: u32) -> f32;
}

pub(super) struct Table<R> {
    parts: Box<[Mutex<Part<R>>]>,
    /// Of each part.
    buckets: usize,
}

type Bucket<R> = [(Option<Hash>, R); PLACES];
type Part<R> = Vec<Bucket<R>>;

impl<R: Row> Table<R> {
    #[cfg(test)]
    pub(super) const ROW_BYTES: usize = size_of::<(Option<Hash>, R)>();

    /// Of at least so many rows, as if made already.
    pub(super) fn new(rows: usize) -> Self {
        Self {
            parts: (0..PARTS).map(|_| Mutex::default()).collect(),
            buckets: rows.div_ceil(PARTS * PLACES).max(1),
        }
    }

    /// Looks at a row, if it is there.
    pub(super) fn peek<T>(&self, hash: Hash, look: impl FnOnce(&mut R) -> T) -> Option<T> {
        self.bucket(hash, |bucket| {
            let (_, row) = bucket.iter_mut().find(|(key, _)| *key == Some(hash))?;
            Some(look(row))
        })
    }

    /// Looks at a row, made if it is not there.
    pub(super) fn row<T>(&self, hash: Hash, now: u32, look: impl FnOnce(&mut R) -> T) -> Option<T> {
        self.bucket(hash, |bucket| {
            let place = match bucket.iter().position(|(key, _)| *key == Some(hash)) {
                Some(place) => place,
                None => lightest(bucket, now),
            };
            let place = bucket.get_mut(place)?;
            if place.0 != Some(hash) {
                *place = (Some(hash), R::default());
            }
            Some(look(&mut place.1))
        })
    }

    fn bucket<T>(&self, hash: Hash, look: impl FnOnce(&mut Bucket<R>) -> Option<T>) -> Option<T> {
        // Both remainders are below what they index.
        let hash = hash.get();
        let part = usize::try_from(hash % PARTS as u64).ok()?;
        let bucket = usize::try_from(hash / PARTS as u64 % self.buckets as u64).ok()?;
        let mut part = self
            .parts
            .get(part)?
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if part.is_empty() {
            part.resize_with(self.buckets, || [(None, R::default()); PLACES]);
        }
        look(part.get_mut(bucket)?)
    }
}

fn lightest<R: Row>(bucket: &Bucket<R>, now: u32) -> usize {
    let weights = bucket.iter().enumerate().map(|(place, (key, row))| {
        let weight = if key.is_none() { -1.0 } else { row.weight(now) };
        (place, weight)
    });
    let lightest = weights.min_by(|(_, one), (_, other)| one.total_cmp(other));
    lightest.map_or(0, |(place, _)| place)
}

impl<R> fmt::Debug for Table<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table")
            .field("buckets", &self.buckets)
            .finish_non_exhaustive()
    }
}
