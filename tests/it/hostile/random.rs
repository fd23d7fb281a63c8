//! A generator that gives the same bytes on every machine and in every version.

/// Longer fixtures are mostly mutated as windows of this size, so that a case takes microseconds.
const WINDOW_BYTES: usize = 1024;

/// SplitMix64. Source: Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014.
pub(super) struct SplitMix(u64);

impl SplitMix {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; 0 when that is 0.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound).expect("usize is at most 64 bits").max(1);
        usize::try_from(self.next() % bound).expect("it is below a usize")
    }

    pub(super) fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[7]
    }

    pub(super) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.byte()).collect()
    }

    /// Something grown from `seed`, or, now and then, nothing but noise.
    pub(super) fn mutated(&mut self, seed: &[u8]) -> Vec<u8> {
        if self.one_in(8) {
            let len = self.below(200);
            return self.bytes(len);
        }
        let mut bytes = seed.to_vec();
        if bytes.len() > WINDOW_BYTES && !self.one_in(16) {
            // The beginning is kept more often than not: without it most formats refuse at once.
            let start = if self.one_in(3) { self.below(bytes.len() - WINDOW_BYTES) } else { 0 };
            bytes = bytes[start..start + WINDOW_BYTES].to_vec();
        }
        for _ in 0..=self.below(6) {
            self.mutate(&mut bytes);
        }
        bytes
    }

    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        let at = self.below(bytes.len() + 1);
        let end = (at + self.below(32)).min(bytes.len());
        match self.below(8) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..end)),
            2 => {
                let repeated = bytes[at..end].to_vec();
                bytes.splice(at..at, repeated);
            }
            3 => {
                let fill = [0x00, 0xFF, 0x7F, 0x80, b'<', b'&'][self.below(6)];
                bytes[at..end].fill(fill);
            }
            4 => {
                let len = self.below(16);
                let noise = self.bytes(len);
                bytes.splice(at..at, noise);
            }
            5 => {
                // Where lengths and counts stand, the extremes are the likeliest to hurt.
                let extreme = [0_u32, 1, 0x7FFF_FFFF, 0x8000_0000, u32::MAX, 0x0000_FFFF][self.below(6)];
                for (target, value) in bytes[at..].iter_mut().zip(extreme.to_be_bytes()) {
                    *target = value;
                }
            }
            6 => {
                let other = self.below(bytes.len() + 1);
                let piece = bytes[at..end].to_vec();
                bytes.splice(other..other, piece);
            }
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << self.below(8);
                }
            }
        }
    }
}
