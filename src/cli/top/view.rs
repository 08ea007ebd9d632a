//! What `sidestream top` draws: the change streams and the streams, or one stream with its listeners.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Table, Wrap};
use serde_json::Value;

use super::screen::State;
use super::table::{self, STREAM_HEADS, UPSTREAM_HEADS, fixed, text};

/// The most lines for what keeps MongoDB from being read, and for change streams.
const MAX_TROUBLES: usize = 4;
const MAX_UPSTREAMS: usize = 8;

const LISTENER_HEADS: [&str; 6] = ["SUBJECT", "TRANSPORT", "AGE s", "LAG s", "READS FROM", "ID"];

pub(super) fn draw(frame: &mut Frame<'_>, state: &mut State) {
    let troubles = troubles(state);
    let height = u16::try_from(troubles.len()).unwrap_or(u16::MAX);
    let [head, below, body, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(height),
        Constraint::Fill(1),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(Line::from(table::summary(&state.report)).bold(), head);
    frame.render_widget(Paragraph::new(troubles).red(), below);
    let keys = match &state.open {
        Some(_) => "q quit  esc back  ↑↓ scroll".to_owned(),
        None => format!(
            "q quit  ↑↓ choose  enter open  s sort, by {}: n name, t state, l listeners, r rate, \
             e events, c cost",
            state.sort.name()
        ),
    };
    frame.render_widget(Line::from(keys).dim(), foot);
    match state.open.clone() {
        Some((name, found)) => one_stream(frame, state, &name, &found, body),
        None => all_streams(frame, state, body),
    }
}

/// What is wrong, a line for each.
fn troubles(state: &State) -> Vec<Line<'static>> {
    let error = state.error.iter().map(|why| format!("! no answer: {why}"));
    let told = state.report["overview"]["troubles"].as_array().into_iter().flatten();
    let told = told.map(|trouble| format!("! {}", text(trouble)));
    error.chain(told).take(MAX_TROUBLES).map(Line::from).collect()
}

fn all_streams(frame: &mut Frame<'_>, state: &mut State, area: Rect) {
    let upstreams = table::upstreams(&state.report);
    let height = u16::try_from(upstreams.len().min(MAX_UPSTREAMS) + 3).unwrap_or(u16::MAX);
    let [above, below] =
        Layout::vertical([Constraint::Length(height), Constraint::Fill(1)]).areas(area);
    let [_, above, _] =
        Layout::vertical([Constraint::Length(1), Constraint::Fill(1), Constraint::Length(1)])
            .areas(above);
    frame.render_widget(widget(UPSTREAM_HEADS, &upstreams, Some(1)), above);
    let streams = widget(STREAM_HEADS, &table::streams(&state.report), Some(1));
    frame.render_stateful_widget(streams, below, &mut state.streams);
}

fn one_stream(
    frame: &mut Frame<'_>,
    state: &mut State,
    name: &str,
    found: &Result<Value, String>,
    area: Rect,
) {
    let streams = state.report["streams"].as_array().into_iter().flatten();
    let stream = streams.into_iter().find(|it| it["name"] == name);
    let [facts, listeners] =
        Layout::vertical([Constraint::Length(7), Constraint::Fill(1)]).areas(area);
    let facts_of = |stream: &Value| {
        let cost = &stream["cost"];
        let mut lines = vec![
            Line::from(""),
            Line::from(vec![
                Span::from(format!("{} ", text(&stream["name"]))).bold(),
                Span::styled(text(&stream["state"]), of_state(&text(&stream["state"]))),
            ]),
            Line::from(format!(
                "{} listeners, {} events/s, {} events so far, the last one of {}",
                text(&stream["subscriptions"]),
                fixed(&stream["events_sent_per_second"]),
                text(&stream["events_sent"]),
                text(&stream["last_event"]),
            )),
            Line::from(format!(
                "{} bytes encoded in {} events, for {} different values",
                text(&cost["delivery_bytes"]),
                text(&cost["deliveries"]),
                text(&cost["values"]),
            )),
        ];
        if !stream["reason"].is_null() {
            lines.push(Line::from(text(&stream["reason"])));
        }
        lines
    };
    let lines = stream.map_or_else(|| vec![Line::from("There is no such stream.")], facts_of);
    frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: true }), facts);
    match found {
        Ok(found) => {
            let rows = table::rows(&found["listeners"], |it| {
                let transport = text(&it["transport"]);
                let is_one_of_several = it["has_other_streams"] == true;
                [
                    it["subject"].as_str().map_or("anybody".to_owned(), |_| text(&it["subject"])),
                    if is_one_of_several { format!("{transport}, with others") } else { transport },
                    text(&it["age_seconds"]),
                    fixed(&it["lag_seconds"]),
                    text(&it["source"]),
                    text(&it["id"]),
                ]
            });
            let table = widget(LISTENER_HEADS, &rows, None);
            frame.render_stateful_widget(table, listeners, &mut state.listeners);
        }
        // A stream that is not in force has none.
        Err(why) => frame.render_widget(Line::from(format!("no listeners: {why}")), listeners),
    }
}

/// A table whose columns are as wide as their widest cell, the last one as the screen allows;
/// `coloured`: the column that holds states.
fn widget<const N: usize>(
    heads: [&'static str; N],
    rows: &[[String; N]],
    coloured: Option<usize>,
) -> Table<'static> {
    let widths = (0..N).map(|column| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        let width = cells.chain([heads[column].len()]).max().unwrap_or(0);
        match column + 1 == N {
            true => Constraint::Fill(1),
            false => Constraint::Length(u16::try_from(width.min(40)).unwrap_or(u16::MAX)),
        }
    });
    let lines = rows.iter().map(|row| {
        Row::new(row.iter().enumerate().map(|(column, cell)| {
            let style = match coloured {
                Some(states) if states == column => of_state(cell),
                _ => Style::new(),
            };
            Cell::from(cell.clone()).style(style)
        }))
    });
    Table::new(lines, widths.collect::<Vec<_>>())
        .header(Row::new(heads).bold())
        .column_spacing(2)
        .row_highlight_style(Style::new().reversed())
}

fn of_state(state: &str) -> Style {
    match state {
        "ready" | "live" => Style::new().fg(Color::Green),
        "waiting" | "starting" => Style::new().fg(Color::Yellow),
        _ => Style::new().fg(Color::Red),
    }
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use serde_json::json;

    use super::super::Sort;
    use super::super::sample::tests::of;
    use super::*;

    /// The lines of a screen of this size.
    fn drawn(state: &mut State, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, state)).unwrap();
        let buffer = terminal.backend().buffer().clone();
        let cells: Vec<&str> = buffer.content().iter().map(|cell| cell.symbol()).collect();
        cells.chunks(usize::from(width)).map(|line| line.concat().trim_end().to_owned()).collect()
    }

    fn state() -> State {
        let reason = "a reason \u{1b}[2J that is long enough to be cut";
        let streams = [
            json!({ "name": "orders", "state": "ready", "subscriptions": 2, "events_sent": 7 }),
            json!({ "name": "chat", "state": "broken", "reason": reason, "subscriptions": 0,
                "events_sent": 0, "cost": { "values": 3 } }),
        ];
        State::new(of(5.0, &streams), Sort::Name)
    }

    #[test]
    fn streams_are_a_table_that_fits_the_screen() {
        let mut state = state();
        let lines = drawn(&mut state, 60, 12);
        assert!(lines[0].starts_with("sidestream "), "{lines:#?}");
        let find = |what: &str| lines.iter().find(|line| line.starts_with(what)).expect(what);
        assert!(find("STREAM").contains("LISTENERS"), "{lines:#?}");
        assert_eq!(find("orders"), "orders  ready   2          -         7       -");
        assert!(find("chat").ends_with("a reason [2J th"), "{lines:#?}");
        assert!(lines[11].starts_with("q quit"), "{lines:#?}");
        // Nothing is too small for it.
        for (width, height) in [(1, 1), (20, 3), (5, 40), (300, 1)] {
            drawn(&mut state, width, height);
        }
    }

    #[test]
    fn a_stream_is_shown_with_its_listeners() {
        let mut state = state();
        let listener = json!({ "id": "0-1", "subject": null, "age_seconds": 9, "transport": "sse",
            "lag_seconds": 1.64, "source": "look-back", "has_other_streams": true });
        let found = json!({ "listeners": [listener] });
        state.open = Some(("chat".to_owned(), Ok(found)));
        let lines = drawn(&mut state, 90, 14);
        let all = lines.join("\n");
        for shown in
            ["chat broken", "for 3 different values", "a reason", "anybody  sse, with others  9"]
        {
            assert!(all.contains(shown), "{shown}: {lines:#?}");
        }
        assert!(all.contains("1.6    look-back   0-1"), "{lines:#?}");
        state.open = Some(("gone".to_owned(), Err("status 404".to_owned())));
        state.error = Some("nobody".to_owned());
        let all = drawn(&mut state, 90, 14).join("\n");
        for shown in ["There is no such stream.", "no listeners: status 404", "! no answer: nobody"]
        {
            assert!(all.contains(shown), "{shown}: {all}");
        }
        let mut small = state;
        drawn(&mut small, 3, 3);
    }
}
