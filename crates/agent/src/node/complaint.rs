//! Saying what is wrong once, not each time it is tried.

/// The last thing said.
#[derive(Default)]
pub(super) struct Complaint(Option<String>);

impl Complaint {
    pub(super) fn say(&mut self, what: &str) {
        if self.0.as_deref() == Some(what) {
            tracing::debug!("still: {what}");
        } else {
            tracing::warn!("{what}; trying until that is mended");
            self.0 = Some(what.to_owned());
        }
    }

    /// It is mended. Answers whether anything was wrong.
    pub(super) fn settle(&mut self) -> bool {
        self.0.take().is_some()
    }
}
