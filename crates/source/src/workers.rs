//! Tasks that feed one sink at once.

use std::future::Future;

use lifeboat_model::flow::SinkError;
use tokio::task::{JoinError, JoinSet};

use crate::SourceError;

/// They end with this value, however it ends.
#[derive(Default)]
pub(crate) struct Workers {
    tasks: JoinSet<Result<(), SourceError>>,
    refused: Option<SourceError>,
}

impl Workers {
    /// Begins one more.
    pub(crate) fn spawn(&mut self, work: impl Future<Output = Result<(), SourceError>> + Send + 'static) {
        self.tasks.spawn(work);
    }

    /// How many have not been seen to end.
    pub(crate) fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Whether the sink refused one of them: another made it do so, and says why as soon as it gets there.
    pub(crate) fn is_refused(&self) -> bool {
        self.refused.is_some()
    }

    /// The end of the next one, for [`Self::judge`]; nothing is lost where this is dropped.
    pub(crate) async fn ended(&mut self) -> Option<Result<Result<(), SourceError>, JoinError>> {
        self.tasks.join_next().await
    }

    /// Ends all others where one failed by itself.
    ///
    /// # Errors
    /// The failure.
    ///
    /// # Panics
    /// As the task did.
    pub(crate) async fn judge(&mut self, ended: Result<Result<(), SourceError>, JoinError>) -> Result<(), SourceError> {
        let ended = ended.unwrap_or_else(|broken| match broken.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(SourceError::Cancelled),
        });
        match ended {
            Err(error @ SourceError::Sink(SinkError::Poisoned(_))) => {
                self.refused.get_or_insert(error);
                Ok(())
            }
            Err(error) => {
                self.tasks.shutdown().await;
                Err(error)
            }
            Ok(()) => Ok(()),
        }
    }

    /// Waits until all have ended.
    ///
    /// # Errors
    /// What made one of them fail, rather than what it made others fail of.
    pub(crate) async fn all(mut self) -> Result<(), SourceError> {
        while let Some(ended) = self.ended().await {
            self.judge(ended).await?;
        }
        self.refused.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poisoned() -> SourceError {
        SourceError::Sink(SinkError::Poisoned("an entry failed".to_owned()))
    }

    #[tokio::test]
    async fn the_cause_is_told_and_not_what_it_caused_and_nobody_works_on() {
        let mut workers = Workers::default();
        workers.spawn(async { Err(poisoned()) });
        workers.spawn(std::future::pending());
        let ended = workers.ended().await.expect("one ends");
        workers.judge(ended).await.expect("another says why");
        assert!(workers.is_refused());
        workers.spawn(async { Err(SourceError::Cancelled) });
        assert!(matches!(workers.all().await, Err(SourceError::Cancelled)));
    }

    #[tokio::test]
    async fn a_refusal_that_nobody_explains_is_told() {
        let mut workers = Workers::default();
        workers.spawn(async { Err(poisoned()) });
        workers.spawn(async { Ok(()) });
        assert!(matches!(workers.all().await, Err(SourceError::Sink(SinkError::Poisoned(_)))));
    }
}
