//! `sidestream top` in a terminal: keys, what is drawn, and the terminal as it was afterwards.

use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use crate::support::sidecar::{self, Filters};
use crate::support::sse::Stream;
use crate::support::{mongo, unique, until};

const PROGRAM: &str = env!("CARGO_BIN_EXE_sidestream");
const ROWS: u16 = 20;
const COLUMNS: u16 = 100;

/// A terminal, and a program in it.
struct Screen {
    keyboard: File,
    line: OwnedFd,
    shown: Arc<Mutex<vt100::Parser>>,
    child: Child,
}

impl Screen {
    fn start(arguments: &[&str]) -> Screen {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let line = ioctl_tiocgptpeer(&ours, OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        let size = Winsize { ws_row: ROWS, ws_col: COLUMNS, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&line, size).unwrap();
        let end = || Stdio::from(line.try_clone().unwrap());
        // In a session of its own: the terminal of whoever runs the tests is not meant.
        let mut command = Command::new("setsid");
        command.arg(PROGRAM).arg("top").args(arguments);
        command.stdin(end()).stdout(end()).stderr(end()).env("TERM", "xterm-256color");
        let child = command.spawn().unwrap();
        let [rows, columns] = [ROWS, COLUMNS].map(|size| NonZeroU16::new(size).unwrap());
        let shown = Arc::new(Mutex::new(vt100::Parser::new(rows, columns, 0)));
        let (mut reader, into) = (File::from(ours.try_clone().unwrap()), shown.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = reader.read(&mut buffer) {
                into.lock().process(&buffer[..length]);
            }
        });
        Screen { keyboard: File::from(ours), line, shown, child }
    }

    fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    fn lines(&self) -> Vec<String> {
        let shown = self.shown.lock();
        shown.screen().rows(0, COLUMNS).map(|line| line.trim_end().to_owned()).collect()
    }

    async fn until(&self, what: &str, is_so: impl Fn(&[String]) -> bool) {
        until(&format!("{what}, on the screen"), || async { is_so(&self.lines()) }).await;
    }

    /// `setsid` becomes the program, where it need not fork: this is no leader of a group.
    fn program(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn is_raw(&self) -> bool {
        !tcgetattr(&self.line).unwrap().local_modes.contains(LocalModes::ICANON)
    }

    /// Waits for the program's end: the terminal is as it was.
    async fn ended(mut self) -> Option<i32> {
        let mut status = None;
        until("it ends", || {
            status = self.child.try_wait().unwrap();
            let has_ended = status.is_some();
            async move { has_ended }
        })
        .await;
        assert!(!self.is_raw());
        until("the other screen is left", || async {
            !self.shown.lock().screen().alternate_screen()
        })
        .await;
        status.unwrap().code()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Ours, and perhaps gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The line that begins with this text.
fn at(lines: &[String], text: &str) -> Option<usize> {
    lines.iter().position(|line| line.starts_with(text))
}

#[tokio::test]
async fn keys_sort_open_and_quit() {
    let database = unique("top");
    let file = |collection: &str| format!("collection: {database}.{collection}\naccess: public\n");
    let filters =
        Filters::new(&[("chat", &file("a")), ("orders", &file("b")), ("z", "acess: x\n")]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let mut stream = Stream::open(sidecar.listen, "/_events/orders").await;
    stream.until_ready().await;

    let admin = format!("http://{}", sidecar.admin);
    let mut screen = Screen::start(&["--interval", "100ms", &admin]);
    // The last line is the last one that is drawn.
    screen
        .until("its keys", |lines| lines[usize::from(ROWS) - 1].contains("s sort, by name:"))
        .await;
    assert!(screen.is_raw());
    let lines = screen.lines();
    assert!(lines[0].starts_with("sidestream ") && lines[0].contains(": ready, 1 connections"));
    assert!(at(&lines, &format!("{database}/updateLookup  live")).is_some(), "{lines:#?}");
    let rows = ["chat", "orders", "z"].map(|name| at(&lines, name));
    assert!(rows[0].is_some() && rows.is_sorted(), "{lines:#?}");

    screen.press("l");
    screen
        .until("those with listeners first", |lines| at(lines, "orders") < at(lines, "chat"))
        .await;
    screen.press("ss");
    screen.until("the next but one order", |lines| lines.join("").contains("by events:")).await;
    screen.press("n");
    screen.until("by name again", |lines| at(lines, "chat") < at(lines, "orders")).await;
    // Down, and Enter.
    screen.press("\x1b[B\r");
    screen.until("its page", |lines| at(lines, "orders ready").is_some()).await;
    screen.until("its listener", |lines| at(lines, "anybody  sse").is_some()).await;
    drop(stream);
    screen.until("that it left", |lines| at(lines, "anybody").is_none()).await;
    screen.press("\x1b");
    screen.until("the list", |lines| at(lines, "STREAM").is_some()).await;
    // What is new comes by itself.
    filters.write("new", &file("c"));
    screen.until("the new stream", |lines| at(lines, "new").is_some()).await;
    screen.press("q");
    assert_eq!(screen.ended().await, Some(0));
    sidecar.finish().await;
}

#[tokio::test]
async fn a_sidecar_that_goes_is_told_and_the_last_picture_stays() {
    let database = unique("top");
    let text = format!("collection: {database}.a\naccess: public\n");
    let filters = Filters::new(&[("orders", &text)]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let admin = format!("http://{}", sidecar.admin);
    let mut screen = Screen::start(&["--interval", "50ms", "--sort", "rate", &admin]);
    screen.until("the stream", |lines| at(lines, "orders").is_some()).await;
    sidecar.finish().await;
    let both =
        |lines: &[String]| at(lines, "! no answer: ").is_some() && at(lines, "orders").is_some();
    screen.until("that nobody answers, and the stream", both).await;
    // Ctrl-C.
    screen.press("\x03");
    assert_eq!(screen.ended().await, Some(0));
    // From the start: no screen is taken.
    let screen = Screen::start(&[&admin]);
    screen.until("an error", |lines| at(lines, "error: the admin port http://").is_some()).await;
    assert_eq!(screen.ended().await, Some(3));
}

// Whoever ends it from outside finds the terminal as it was, and not in raw mode on another screen.
#[tokio::test]
async fn signals_leave_the_terminal_as_it_was() {
    let filters = Filters::new(&[]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let admin = format!("http://{}", sidecar.admin);
    for signal in [Signal::TERM, Signal::HUP, Signal::INT] {
        let screen = Screen::start(&[&admin]);
        screen.until("its keys", |lines| lines[usize::from(ROWS) - 1].contains("s sort")).await;
        assert!(screen.is_raw());
        kill_process(screen.program(), signal).unwrap();
        assert_eq!(screen.ended().await, Some(128 + signal.as_raw()), "{signal:?}");
    }
    sidecar.finish().await;
}
