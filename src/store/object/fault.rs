//! A bucket that fails on purpose: rules say which requests fail, and how. For tests, seeded and repeatable.
//!
//! What lives here: [`Faults`] (the layer: rules, chaos, death), [`Rule`] (which requests), [`Action`] (how).
//!
//! Invariants:
//! - An error tells no more than a real endpoint's would: a write that is not answered is `Unknown`, whether it was applied or not.
//! - Time passes by tokio's timers only, so that a paused clock runs through outages at once.
//! - Rules are looked at in the order in which they were added. Delays add up; the first other action that applies is taken.

use std::future::Future;
use std::ops::Range;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::sleep;

use super::layer::{Answer, Kind, Layer, Request};
use super::{ObjectError, Outcome};

#[cfg(test)]
mod tests;

/// What happens to a request.
#[derive(Clone, Debug)]
pub enum Action {
    /// It is refused with this error and does not happen.
    Refuse(ObjectError),
    /// It happens, and its answer is lost after all: nobody can tell.
    LoseAnswer,
    /// It does not happen, and nobody can tell either.
    LoseRequest,
    /// It does not happen, and nobody answers until [`Faults::PATIENCE`] is over.
    Hang,
    /// It happens, and nobody answers until [`Faults::PATIENCE`] is over.
    HangAfter,
    /// It begins later, by a random time in this range: requests overtake each other.
    Delay(Range<Duration>),
    /// It happens at once, and its answer comes later, by a random time in this range.
    DelayAnswer(Range<Duration>),
    /// The connection breaks inside the body: what is sent does not arrive, and what is fetched is an error, not half of it.
    CutBody,
    /// An endpoint that lies: a fetched body has at most so many bytes, and nothing says that there were more.
    Truncate(u64),
}

/// Which keys a rule is about.
#[derive(Clone, Debug, Default)]
pub enum Keys {
    /// All.
    #[default]
    Any,
    /// This one.
    Is(String),
    /// Those that begin so.
    Below(String),
}

impl Keys {
    fn matches(&self, key: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Is(one) => key == one,
            Self::Below(prefix) => key.starts_with(prefix.as_str()),
        }
    }
}

/// Which requests fail, and how.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Of these kinds; none stands for all.
    pub kinds: Vec<Kind>,
    /// On these keys.
    pub keys: Keys,
    /// Not the first so many of them.
    pub skip: u64,
    /// Then so many of them; `None` is for ever.
    pub times: Option<u64>,
    /// Each with this probability, 0 to 1.
    pub probability: f64,
    /// How.
    pub action: Action,
}

impl Rule {
    /// Every request, for ever; narrow it down from there.
    pub fn new(action: Action) -> Self {
        Self { kinds: Vec::new(), keys: Keys::Any, skip: 0, times: None, probability: 1.0, action }
    }

    /// Only requests of this kind (too).
    #[must_use]
    pub fn on(mut self, kind: Kind) -> Self {
        self.kinds.push(kind);
        self
    }

    /// Only on these keys.
    #[must_use]
    pub fn at(self, keys: Keys) -> Self {
        Self { keys, ..self }
    }

    /// Only so many times.
    #[must_use]
    pub fn times(self, times: u64) -> Self {
        Self { times: Some(times), ..self }
    }

    /// Only after so many requests that match went through.
    #[must_use]
    pub fn after(self, skip: u64) -> Self {
        Self { skip, ..self }
    }

    /// Only with this probability.
    #[must_use]
    pub fn with_probability(self, probability: f64) -> Self {
        Self { probability, ..self }
    }

    fn matches(&self, request: &Request<'_>) -> bool {
        (self.kinds.is_empty() || self.kinds.contains(&request.kind))
            && (self.keys.matches(request.key) || request.more.iter().any(|(key, _)| self.keys.matches(key)))
    }
}

/// How a bucket is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// Nobody listens: each request fails at once and did not happen.
    Refusing,
    /// A black hole: each request waits until [`Faults::PATIENCE`] is over.
    Silent,
}

/// The layer. Shared by reference: a test changes the weather while requests run.
pub struct Faults {
    state: Mutex<State>,
}

struct State {
    random: fastrand::Rng,
    rules: Vec<Rule>,
    dead: Option<Death>,
    chaos: f64,
    injected: u64,
}

/// What is decided for one request, before it begins.
struct Fate {
    delay: Duration,
    action: Option<Action>,
    answer_delay: Duration,
}

impl Faults {
    /// After so long an unanswered request is given up, as the S3 client does.
    pub const PATIENCE: Duration = Duration::from_secs(30);

    /// No faults yet; `seed` decides all that is random.
    pub fn new(seed: u64) -> Self {
        let random = fastrand::Rng::with_seed(seed);
        Self { state: Mutex::new(State { random, rules: Vec::new(), dead: None, chaos: 0.0, injected: 0 }) }
    }

    /// Adds a rule.
    pub fn add(&self, rule: Rule) {
        self.state.lock().rules.push(rule);
    }

    /// Each request that no rule takes fails with this probability in some way that real endpoints know, and is
    /// delayed with the same probability.
    pub fn chaos(&self, probability: f64) {
        self.state.lock().chaos = probability;
    }

    /// From now on nothing answers.
    pub fn kill(&self, death: Death) {
        self.state.lock().dead = Some(death);
    }

    /// Good weather: no rules, no chaos, no death. What hangs goes on hanging.
    pub fn heal(&self) {
        let mut state = self.state.lock();
        state.rules.clear();
        state.dead = None;
        state.chaos = 0.0;
    }

    /// How many requests were made to fail or to wait.
    pub fn injected(&self) -> u64 {
        self.state.lock().injected
    }

    fn fate(&self, request: &Request<'_>) -> Fate {
        let state = &mut *self.state.lock();
        let mut fate = Fate { delay: Duration::ZERO, action: None, answer_delay: Duration::ZERO };
        match state.dead {
            Some(Death::Refusing) => fate.action = Some(Action::Refuse(refused("connection refused"))),
            Some(Death::Silent) => fate.action = Some(Action::Hang),
            None => {
                state.apply_rules(request, &mut fate);
                state.apply_chaos(&mut fate);
            }
        }
        let touched = fate.action.is_some() || !fate.delay.is_zero() || !fate.answer_delay.is_zero();
        state.injected += u64::from(touched);
        fate
    }
}

impl State {
    fn apply_rules(&mut self, request: &Request<'_>, fate: &mut Fate) {
        for rule in self.rules.iter_mut().filter(|rule| rule.matches(request)) {
            if rule.skip > 0 {
                rule.skip -= 1;
                continue;
            }
            if rule.times == Some(0) || self.random.f64() >= rule.probability {
                continue;
            }
            let taken = match &rule.action {
                Action::Delay(range) => {
                    fate.delay += between(&mut self.random, range);
                    false
                }
                Action::DelayAnswer(range) => {
                    fate.answer_delay += between(&mut self.random, range);
                    false
                }
                other => {
                    fate.action = Some(other.clone());
                    true
                }
            };
            rule.times = rule.times.map(|times| times - 1);
            if taken {
                return;
            }
        }
    }

    fn apply_chaos(&mut self, fate: &mut Fate) {
        let instants = Duration::ZERO..Duration::from_secs(2);
        if self.chaos <= 0.0 {
            return;
        }
        if self.random.f64() < self.chaos {
            fate.delay += between(&mut self.random, &instants);
        }
        if self.random.f64() < self.chaos {
            fate.answer_delay += between(&mut self.random, &instants);
        }
        if fate.action.is_none() && self.random.f64() < self.chaos {
            fate.action = Some(match self.random.u8(..7) {
                0 => Action::Refuse(ObjectError::SlowDown),
                1 => Action::Refuse(refused("connection refused")),
                2 => Action::Refuse(ObjectError::Conflict),
                3 => Action::LoseRequest,
                4 => Action::LoseAnswer,
                5 => Action::HangAfter,
                _ => Action::CutBody,
            });
        }
    }
}

fn between(random: &mut fastrand::Rng, range: &Range<Duration>) -> Duration {
    range.start + range.end.saturating_sub(range.start).mul_f64(random.f64())
}

fn refused(reason: &str) -> ObjectError {
    ObjectError::Unavailable { reason: reason.to_owned(), outcome: Outcome::Refused }
}

impl Layer for Faults {
    async fn around<T, C, F>(&self, request: Request<'_>, call: C) -> Result<T, ObjectError>
    where
        T: Answer,
        C: Fn() -> F + Send + Sync,
        F: Future<Output = Result<T, ObjectError>> + Send,
    {
        let fate = self.fate(&request);
        tracing::trace!(kind = request.kind.name(), key = request.key, action = ?fate.action, "a request to a bucket with faults");
        sleep_unless_zero(fate.delay).await;
        let answer = match fate.action {
            None => call().await,
            Some(action) => act(action, &request, call).await,
        };
        sleep_unless_zero(fate.answer_delay).await;
        answer
    }
}

/// A timer of no length would still let other tasks run: requests without faults are to change nothing.
async fn sleep_unless_zero(time: Duration) {
    if !time.is_zero() {
        sleep(time).await;
    }
}

async fn act<T, C, F>(action: Action, request: &Request<'_>, call: C) -> Result<T, ObjectError>
where
    T: Answer,
    C: Fn() -> F + Send + Sync,
    F: Future<Output = Result<T, ObjectError>> + Send,
{
    match action {
        Action::Refuse(error) => Err(error),
        Action::LoseRequest | Action::CutBody => Err(request.no_answer("the connection broke")),
        // The endpoint applied or refused it; the caller learns neither.
        Action::LoseAnswer => {
            let _lost = call().await;
            Err(request.no_answer("the connection broke before the answer"))
        }
        Action::Hang => {
            sleep(Faults::PATIENCE).await;
            Err(request.no_answer("no answer in time"))
        }
        Action::HangAfter => {
            let _lost = call().await;
            sleep(Faults::PATIENCE).await;
            Err(request.no_answer("no answer in time"))
        }
        Action::Truncate(keep) => {
            let mut answer = call().await?;
            answer.truncate(keep);
            Ok(answer)
        }
        // Delays are part of the fate already.
        Action::Delay(_) | Action::DelayAnswer(_) => call().await,
    }
}
