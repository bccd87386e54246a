//! What one direction of a circuit may still carry (circuit relay v2,
//! "Limit.data": bytes in each direction).

/// Bytes that one direction of a circuit has carried, held against its limit.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    carried: u64,
    limit: Option<u64>,
}

/// How much of what arrived may pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admitted {
    /// This many of the bytes, from the front.
    pub bytes: usize,
    /// Whether something had to stay behind: the circuit is over.
    pub exhausted: bool,
}

impl Budget {
    /// A direction that has carried nothing; `None` is no limit.
    #[must_use]
    pub fn new(limit: Option<u64>) -> Self {
        Self { carried: 0, limit }
    }

    /// Takes `bytes` out of the budget, as many as it has.
    ///
    /// Exactly the limit passes; the direction is exhausted by the first byte
    /// behind it, not by the last one before it.
    #[inline]
    pub fn admit(&mut self, bytes: usize) -> Admitted {
        let left = self.limit.map_or(u64::MAX, |limit| limit - self.carried);
        let admitted = usize::try_from(left).unwrap_or(usize::MAX).min(bytes);
        self.carried += admitted as u64;
        Admitted {
            bytes: admitted,
            exhausted: admitted < bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_the_limit_passes() {
        let mut budget = Budget::new(Some(10));
        let pass = |bytes, exhausted| Admitted { bytes, exhausted };
        assert_eq!(budget.admit(4), pass(4, false));
        assert_eq!(budget.admit(6), pass(6, false));
        assert_eq!(budget.admit(0), pass(0, false));
        assert_eq!(budget.admit(1), pass(0, true));
        assert_eq!(Budget::new(Some(10)).admit(11), pass(10, true));
    }

    #[test]
    fn no_limit_passes_everything() {
        let mut budget = Budget::new(None);
        for _ in 0..3 {
            assert_eq!(budget.admit(usize::MAX >> 2).bytes, usize::MAX >> 2);
        }
    }
}
