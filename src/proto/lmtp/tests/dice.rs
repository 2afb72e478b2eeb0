//! Numbers and octets from a seed, so that a test that fails can be run again.

/// Numbers from a seed: xorshift64.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % end
    }

    pub(super) fn octets(&mut self, words: &[&[u8]], most: usize) -> Vec<u8> {
        let count = self.below(most);
        (0..count)
            .flat_map(|_| words[self.below(words.len())].to_vec())
            .collect()
    }
}
