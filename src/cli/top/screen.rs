//! `sidestream top` on a screen: what its keys do.
//!
//! Threads bring what happens: one reads the keys, one asks the admin port, at once when another
//! stream is opened, and one waits for signals. The main one draws when there is something new, and
//! waits otherwise.
//!
//! However it ends, the terminal is left as it was: a signal ends the main loop, as a key does.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::crossterm::terminal::disable_raw_mode;
use ratatui::widgets::TableState;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use super::Sort;
use super::sample::{Sample, listeners};
use super::view;

/// How many rows PageUp and PageDown go.
const PAGE: usize = 10;
/// What ends the program from outside.
const TERMINATE: SignalKind = SignalKind::terminate();
const HANG_UP: SignalKind = SignalKind::hangup();
const INTERRUPT: SignalKind = SignalKind::interrupt();
/// How long the main thread has to leave after a signal: its terminal may be stopped, and take nothing.
const LEAVE: Duration = Duration::from_secs(1);

/// What is on the screen.
pub(super) struct State {
    pub sort: Sort,
    /// The newest report, its streams in the order of the moment.
    pub report: Value,
    /// Why there is no newer one.
    pub error: Option<String>,
    /// The stream whose page is open, and its listeners once they came.
    pub open: Option<(String, Result<Value, String>)>,
    /// The chosen row of the streams, or of the listeners.
    pub streams: TableState,
    pub listeners: TableState,
    /// What rates are counted from.
    before: Sample,
    newest: Sample,
}

/// What a key asks for beside a new picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Effect {
    Draw,
    /// The listeners of this stream are wanted from now on; of none.
    Ask(Option<String>),
    Quit,
}

enum Message {
    Input(Event),
    /// Nobody is at the keyboard any more.
    NoInput,
    Look(Box<Look>),
    /// This signal came.
    Signal(u8),
}

/// Why it ended, where nothing was wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// Somebody left, or nobody is there.
    Quit,
    Signal(u8),
}

impl Left {
    /// The exit code: as a shell shows a program that a signal ended.
    pub fn code(self) -> u8 {
        match self {
            Left::Quit => 0,
            Left::Signal(number) => 128 + number,
        }
    }
}

/// One look at the admin port.
pub(super) struct Look {
    pub sample: Result<Sample, String>,
    pub listeners: Option<(String, Result<Value, String>)>,
    /// Whether the time since the last one is that of the settings: rates over less are none.
    pub is_regular: bool,
}

/// Draws until somebody leaves, or a signal comes.
///
/// # Errors
/// The admin port or the terminal cannot be used.
pub(super) fn run(address: &str, interval: Duration, sort: Sort) -> Result<Left, String> {
    // Nobody there is told before the screen is taken.
    let mut state = State::new(Sample::take(address)?, sort);
    let (tell, told) = channel();
    let (ask, asked) = channel();
    let keys = tell.clone();
    std::thread::spawn(move || read_keys(&keys));
    watch_signals(tell.clone()).map_err(|error| format!("signals cannot be watched: {error}"))?;
    let address = address.to_owned();
    std::thread::spawn(move || look(&address, interval, &asked, &tell));
    let unusable = |error: std::io::Error| format!("the terminal cannot be used: {error}");
    let mut terminal = ratatui::try_init().map_err(unusable)?;
    let ended = loop {
        if let Err(error) = terminal.draw(|frame| view::draw(frame, &mut state)) {
            break Err(unusable(error));
        }
        let effect = match told.recv() {
            Ok(Message::Input(Event::Key(key))) if key.kind == KeyEventKind::Press => {
                state.press(key)
            }
            // Another size, say.
            Ok(Message::Input(_)) => Effect::Draw,
            Ok(Message::Look(look)) => {
                state.take(*look);
                Effect::Draw
            }
            Ok(Message::NoInput) | Err(_) => Effect::Quit,
            Ok(Message::Signal(number)) => break Ok(Left::Signal(number)),
        };
        match effect {
            Effect::Draw => {}
            // The thread that asks lives as long as this one.
            Effect::Ask(stream) => {
                let _ = ask.send(stream);
            }
            Effect::Quit => break Ok(Left::Quit),
        }
    };
    ratatui::restore();
    ended
}

/// Tells of the first signal. They are caught from here on, before the terminal is changed.
fn watch_signals(tell: Sender<Message>) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut terminate, mut hang_up, mut interrupt) = {
        let _entered = runtime.enter();
        (signal(TERMINATE)?, signal(HANG_UP)?, signal(INTERRUPT)?)
    };
    std::thread::spawn(move || {
        let kind = runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => TERMINATE,
                _ = hang_up.recv() => HANG_UP,
                _ = interrupt.recv() => INTERRUPT,
            }
        });
        // All of them are below 32.
        let number = u8::try_from(kind.as_raw_value()).unwrap_or_default();
        // The main thread has left where nobody listens.
        let _ = tell.send(Message::Signal(number));
        std::thread::sleep(LEAVE);
        let _ = disable_raw_mode();
        std::process::exit(Left::Signal(number).code().into());
    });
    Ok(())
}

fn read_keys(tell: &Sender<Message>) {
    loop {
        let message = event::read().map_or(Message::NoInput, Message::Input);
        let is_last = matches!(message, Message::NoInput);
        if tell.send(message).is_err() || is_last {
            return;
        }
    }
}

fn look(
    address: &str,
    interval: Duration,
    asked: &Receiver<Option<String>>,
    tell: &Sender<Message>,
) {
    let mut stream: Option<String> = None;
    loop {
        let is_regular = match asked.recv_timeout(interval) {
            Ok(other) => {
                // Only the last one is still on the screen.
                stream = asked.try_iter().last().unwrap_or(other);
                false
            }
            Err(RecvTimeoutError::Timeout) => true,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let sample = Sample::take(address);
        let listening = stream.clone().map(|stream| {
            let found = listeners(address, &stream);
            (stream, found)
        });
        let look = Look { sample, listeners: listening, is_regular };
        if tell.send(Message::Look(Box::new(look))).is_err() {
            return;
        }
    }
}

impl State {
    /// There are no rates until the second sample; the first row is chosen.
    pub fn new(sample: Sample, sort: Sort) -> State {
        let mut state = State {
            sort,
            report: Value::Null,
            error: None,
            open: None,
            streams: TableState::default(),
            listeners: TableState::default(),
            before: sample.clone(),
            newest: sample,
        };
        state.arrange();
        state
    }

    /// What was seen, or why nothing was: then the last picture stays.
    pub fn take(&mut self, look: Look) {
        match look.sample {
            Ok(sample) => {
                self.error = None;
                let last = std::mem::replace(&mut self.newest, sample);
                if look.is_regular {
                    self.before = last;
                }
                self.arrange();
            }
            Err(why) => self.error = Some(why),
        }
        if let (Some((open, shown)), Some((stream, found))) = (&mut self.open, look.listeners)
            && *open == stream
        {
            *shown = found;
        }
    }

    /// What to do about a key; keys that mean nothing only draw again.
    pub fn press(&mut self, key: KeyEvent) -> Effect {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return if key.code == KeyCode::Char('c') { Effect::Quit } else { Effect::Draw };
        }
        match key.code {
            KeyCode::Char('q') => return Effect::Quit,
            KeyCode::Esc | KeyCode::Backspace | KeyCode::Left if self.open.is_some() => {
                self.open = None;
                return Effect::Ask(None);
            }
            KeyCode::Esc => return Effect::Quit,
            KeyCode::Enter | KeyCode::Right if self.open.is_none() => {
                let Some(name) = self.chosen() else { return Effect::Draw };
                self.listeners = TableState::default();
                self.open = Some((name.clone(), Ok(Value::Null)));
                return Effect::Ask(Some(name));
            }
            KeyCode::Char('s') => self.order(self.sort.next(1)),
            KeyCode::Char('S') => self.order(self.sort.next(5)),
            KeyCode::Char('n') => self.order(Sort::Name),
            KeyCode::Char('t') => self.order(Sort::State),
            KeyCode::Char('l') => self.order(Sort::Listeners),
            KeyCode::Char('r') => self.order(Sort::Rate),
            KeyCode::Char('e') => self.order(Sort::Events),
            KeyCode::Char('c') => self.order(Sort::Cost),
            KeyCode::Down | KeyCode::Char('j') => self.go(|at, _| at + 1),
            KeyCode::Up | KeyCode::Char('k') => self.go(|at, _| at.saturating_sub(1)),
            KeyCode::PageDown => self.go(|at, _| at + PAGE),
            KeyCode::PageUp => self.go(|at, _| at.saturating_sub(PAGE)),
            KeyCode::Home => self.go(|_, _| 0),
            KeyCode::End => self.go(|_, rows| rows),
            _ => {}
        }
        Effect::Draw
    }

    /// The name of the chosen stream.
    fn chosen(&self) -> Option<String> {
        let stream = &self.report["streams"][self.streams.selected()?];
        stream["name"].as_str().map(str::to_owned)
    }

    fn order(&mut self, sort: Sort) {
        self.sort = sort;
        self.arrange();
    }

    /// Makes the report from what was seen last; the chosen stream stays chosen, wherever it is.
    fn arrange(&mut self) {
        let chosen = self.chosen();
        self.report = self.newest.since(&self.before);
        self.sort.apply(&mut self.report);
        let streams = self.report["streams"].as_array().map_or(&[][..], Vec::as_slice);
        let same = streams.iter().position(|it| it["name"].as_str() == chosen.as_deref());
        let last = streams.len().checked_sub(1);
        let at = same.or(self.streams.selected().or(Some(0)).min(last));
        self.streams.select(at.filter(|_| last.is_some()));
    }

    /// Chooses another row.
    fn go(&mut self, to: impl Fn(usize, usize) -> usize) {
        let (table, rows) = match &self.open {
            Some((_, found)) => {
                let rows = found.as_ref().ok().and_then(|it| it["listeners"].as_array());
                (&mut self.listeners, rows.map_or(0, Vec::len))
            }
            None => (&mut self.streams, self.report["streams"].as_array().map_or(0, Vec::len)),
        };
        let Some(last) = rows.checked_sub(1) else { return };
        table.select(Some(to(table.selected().unwrap_or_default(), rows).min(last)));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::sample::tests::of;
    use super::*;

    fn state() -> State {
        let stream = |name: &str, listeners: u64| json!({ "name": name, "state": "ready", "subscriptions": listeners, "events_sent": 0 });
        State::new(of(1.0, &[stream("a", 1), stream("b", 3), stream("c", 2)]), Sort::Name)
    }

    fn press(state: &mut State, code: KeyCode) -> Effect {
        state.press(KeyEvent::new(code, KeyModifiers::NONE))
    }

    fn names(state: &State) -> String {
        let streams = state.report["streams"].as_array().unwrap().iter();
        streams.filter_map(|it| it["name"].as_str()).collect()
    }

    #[test]
    fn keys_sort_and_what_is_chosen_stays_so() {
        let mut state = state();
        assert_eq!((names(&state).as_str(), state.chosen().as_deref()), ("abc", Some("a")));
        press(&mut state, KeyCode::Char('l'));
        assert_eq!((names(&state).as_str(), state.chosen().as_deref()), ("bca", Some("a")));
        press(&mut state, KeyCode::Up);
        assert_eq!(state.chosen().as_deref(), Some("c"));
        // Round and round.
        for name in ["rate", "events", "cost", "name", "state", "listeners"] {
            press(&mut state, KeyCode::Char('s'));
            assert_eq!(state.sort.name(), name);
        }
        press(&mut state, KeyCode::Char('S'));
        assert_eq!(state.sort, Sort::State);
        press(&mut state, KeyCode::End);
        press(&mut state, KeyCode::Down);
        assert_eq!(state.chosen().as_deref(), Some("c"));
        press(&mut state, KeyCode::Home);
        press(&mut state, KeyCode::PageUp);
        assert_eq!(state.chosen().as_deref(), Some("a"));
    }

    #[test]
    fn a_stream_is_opened_and_closed() {
        let mut state = state();
        press(&mut state, KeyCode::Down);
        assert_eq!(press(&mut state, KeyCode::Enter), Effect::Ask(Some("b".to_owned())));
        let listening = |id: &str| Ok(json!({ "listeners": [{ "id": id }, { "id": "2" }] }));
        // What comes late, of another stream, is not shown.
        for (stream, id) in [("b", "1"), ("a", "9")] {
            let listeners = Some((stream.to_owned(), listening(id)));
            let sample = Err("gone".to_owned());
            state.take(Look { sample, listeners, is_regular: false });
        }
        let (open, found) = state.open.clone().unwrap();
        assert_eq!((open.as_str(), found), ("b", listening("1")));
        assert_eq!(state.error.as_deref(), Some("gone"));
        press(&mut state, KeyCode::Down);
        press(&mut state, KeyCode::End);
        assert_eq!(state.listeners.selected(), Some(1));
        assert_eq!(press(&mut state, KeyCode::Esc), Effect::Ask(None));
        assert_eq!((state.open.is_none(), state.chosen().as_deref()), (true, Some("b")));
        assert_eq!(press(&mut state, KeyCode::Esc), Effect::Quit);
        assert_eq!(press(&mut state, KeyCode::Char('q')), Effect::Quit);
        let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(state.press(interrupt), Effect::Quit);
    }

    #[test]
    fn rates_are_over_a_whole_interval() {
        let stream = |sent: u64| json!({ "name": "a", "state": "ready", "events_sent": sent });
        let mut state = State::new(of(10.0, &[stream(10)]), Sort::Name);
        let rate = |state: &State| state.report["streams"][0]["events_sent_per_second"].clone();
        assert_eq!(rate(&state), Value::Null);
        let mut see = |uptime, sent, is_regular| {
            let sample = Ok(of(uptime, &[stream(sent)]));
            state.take(Look { sample, listeners: None, is_regular });
            rate(&state)
        };
        assert_eq!(see(12.0, 30, true), 10.0);
        // Right after a key: still counted from the look before.
        assert_eq!(see(12.5, 40, false), 12.0);
        assert_eq!(see(14.0, 50, true), 10.0 / 1.5);
    }

    #[test]
    fn a_stream_that_goes_leaves_another_one_chosen() {
        let mut state = state();
        press(&mut state, KeyCode::End);
        let take = |state: &mut State, sample| {
            state.take(Look { sample: Ok(sample), listeners: None, is_regular: true });
        };
        let left = json!({ "name": "a", "state": "ready" });
        take(&mut state, of(2.0, &[left]));
        assert_eq!(state.chosen().as_deref(), Some("a"));
        take(&mut state, of(3.0, &[]));
        assert_eq!(state.chosen(), None);
        press(&mut state, KeyCode::Down);
        assert_eq!(press(&mut state, KeyCode::Enter), Effect::Draw);
    }
}
