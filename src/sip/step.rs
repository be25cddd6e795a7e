//! Commit before you promise, as a type (design, *The one rule*). Layer: pure.

/// The answer of a core to one input: what must be held by a majority, and what may happen only then.
///
/// The shell commits `commit`; when that succeeded it performs `then` in order, otherwise `otherwise`
/// (and takes the core back to what was committed last). A step without mutations goes straight to `then`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a step that is dropped is a promise broken"]
pub struct Step<M, E> {
    /// To be replicated, as one entry.
    pub commit: Option<M>,
    /// What leaves after the commit.
    pub then: Vec<E>,
    /// What leaves if it couldn't be committed.
    pub otherwise: Vec<E>,
}

impl<M, E> Default for Step<M, E> {
    fn default() -> Self {
        Self { commit: None, then: Vec::new(), otherwise: Vec::new() }
    }
}

impl<M, E> Step<M, E> {
    /// Nothing to commit: these promise nothing new.
    pub fn free(then: Vec<E>) -> Self {
        Self { commit: None, then, otherwise: Vec::new() }
    }

    /// `then` only after `commit`.
    pub fn promise(commit: M, then: Vec<E>) -> Self {
        Self { commit: Some(commit), then, otherwise: Vec::new() }
    }

    /// What to do if the commit fails.
    pub fn or_else(mut self, otherwise: Vec<E>) -> Self {
        self.otherwise = otherwise;
        self
    }
}
