//! How often a connection of ours is made again that ends, or isn't to be had. Layer: pure.

/// So often at once, and then with every so many looks.
const AT_ONCE: u32 = 2;
const SELDOM: u32 = 16;

/// What has become of a leg's connections since anything was answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Redials(u32);

impl Redials {
    /// One has ended, or wasn't to be had. Whether to make the next now; if not, nobody is there for whom nobody has answered yet.
    pub fn lost(&mut self) -> bool {
        self.0 = self.0.saturating_add(1);
        self.0 <= AT_ONCE || self.0.is_multiple_of(SELDOM)
    }

    /// Somebody is there.
    pub fn answered(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_not_there_is_asked_ever_more_seldom() {
        let mut redials = Redials::default();
        let again: Vec<_> = (1..=40).filter(|_| redials.lost()).collect();
        assert_eq!(again, [1, 2, 16, 32]);
        redials.answered();
        assert!(redials.lost());
    }
}
