//! A pipelined NFSv3 client that measures one thing of a server, for `benches/nfs.py`:
//!
//! ```text
//! nfs_load HOST:PORT MOUNT_PORT EXPORT ROW IN_FLIGHT SECONDS
//! ```
//!
//! It prints the rate over the whole run, then the rate of each second, as one line of numbers. One connection and one thread, so that on a
//! small machine the client costs little beside the server; calls are in flight independently of each other, as those of many processes are.

use std::collections::HashMap;
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

const NFS: u32 = 100_003;
const MOUNT: u32 = 100_005;
const MIB: usize = 1 << 20;
/// What READ and WRITE move in one go through the file again and again.
const FILE_BLOCKS: u64 = 64;
/// Names in the directory that is listed.
const NAMES: usize = 1_000;

/// Procedures of RFC 1813 §3.3.
const GETATTR: u32 = 1;
const LOOKUP: u32 = 3;
const READ: u32 = 6;
const WRITE: u32 = 7;
const CREATE: u32 = 8;
const MKDIR: u32 = 9;
const READDIRPLUS: u32 = 17;
const COMMIT: u32 = 21;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, mount_port, export, row, in_flight, seconds] = arguments.as_slice() else {
        eprintln!("usage: nfs_load HOST:PORT MOUNT_PORT EXPORT ROW IN_FLIGHT SECONDS");
        eprintln!("rows: getattr lookup readdirplus read write small");
        std::process::exit(2);
    };
    let number = |text: &str| text.parse::<u64>().map_err(|_| Error::other(format!("{text}: not a number")));
    let (in_flight, seconds) = (number(in_flight)? as usize, Duration::from_secs(number(seconds)?));
    let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host);
    let root = mount(&format!("{host}:{mount_port}"), export)?;
    let mut client = Client::connect(address)?;
    let name = format!("load-{}", std::process::id());
    let mut clock = Clock::new(seconds);
    match row.as_str() {
        "getattr" => {
            let file = client.create(&root, &name)?;
            let args = opaque(&file);
            client.run(in_flight, &mut clock, |_, _| Some((GETATTR, args.clone())))?;
        }
        "lookup" => {
            client.create(&root, &name)?;
            let args = [opaque(&root), opaque(name.as_bytes())].concat();
            client.run(in_flight, &mut clock, |_, _| Some((LOOKUP, args.clone())))?;
        }
        "readdirplus" => readdirplus(&mut client, &root, &name, in_flight, &mut clock)?,
        "read" => {
            let file = client.create(&root, &name)?;
            client.fill(&file)?;
            let mut next = blocks();
            client.run(in_flight, &mut clock, |_, _| {
                Some((READ, [opaque(&file), words(&[0, next() as u32, MIB as u32])].concat()))
            })?;
        }
        "write" => write(&mut client, &root, &name, in_flight, &mut clock)?,
        "small" => small(&mut client, &root, &name, in_flight, &mut clock)?,
        _ => return Err(Error::other(format!("{row}: no such row"))),
    }
    clock.print();
    Ok(())
}

/// UNSTABLE writes of 1 MiB, file after file of 64 MiB, each with a COMMIT at its end: the rate counts MiB that are committed.
fn write(client: &mut Client, root: &[u8], name: &str, in_flight: usize, clock: &mut Clock) -> Result<()> {
    let body = opaque(&vec![b'w'; MIB]);
    for number in 0u64.. {
        if clock.is_over() {
            break;
        }
        let file = client.create(root, &format!("{name}-{number}"))?;
        let mut left = FILE_BLOCKS;
        let mut next = blocks();
        client.run(in_flight, &mut Clock::new(Duration::MAX), |_, _| {
            left = left.checked_sub(1)?;
            Some((WRITE, [opaque(&file), words(&[0, next() as u32, MIB as u32, 0]), body.clone()].concat()))
        })?;
        client.call(NFS, COMMIT, &[opaque(&file), words(&[0, 0, 0])].concat())?;
        clock.count(FILE_BLOCKS);
    }
    Ok(())
}

/// Files of 4 KiB: each slot creates one, writes it UNSTABLE, commits it, and goes on with the next.
fn small(client: &mut Client, root: &[u8], name: &str, in_flight: usize, clock: &mut Clock) -> Result<()> {
    let directory = client.mkdir(root, name)?;
    let body = opaque(&vec![b'x'; 4096]);
    let mut files = vec![Vec::new(); in_flight];
    let mut steps = vec![0; in_flight];
    let mut number = 0u64;
    let mut files_clock = clock.clone();
    let ended = client.run(in_flight, &mut Clock::new(clock.limit), |slot, last| {
        let step = steps[slot];
        steps[slot] = (step + 1) % 3;
        if step == 0 {
            if last.is_some() {
                files_clock.count(1);
            }
            number += 1;
            return Some((CREATE, create_args(&directory, &format!("f{number}"))));
        }
        if step == 1 {
            files[slot] = created(last?).ok()?;
            return Some((WRITE, [opaque(&files[slot]), words(&[0, 0, 4096, 0]), body.clone()].concat()));
        }
        Some((COMMIT, [opaque(&files[slot]), words(&[0, 0, 0])].concat()))
    });
    *clock = files_clock;
    ended
}

/// Lists a directory of 1,000 names from its begin to its end, each slot for itself; the rate counts entries.
fn readdirplus(client: &mut Client, root: &[u8], name: &str, in_flight: usize, clock: &mut Clock) -> Result<()> {
    let directory = client.mkdir(root, name)?;
    let mut names = 0;
    client.run(16, &mut Clock::new(Duration::MAX), |_, _| {
        names += 1;
        (names <= NAMES).then(|| (CREATE, create_args(&directory, &format!("a-name-like-others-{names}"))))
    })?;
    let mut entries_clock = clock.clone();
    let mut failed = None;
    client.run(in_flight, &mut Clock::new(clock.limit), |_, last| {
        let mut from = ([0; 8], [0; 8]);
        if let Some(results) = last {
            match page(results) {
                Ok(page) => {
                    entries_clock.count(page.entries);
                    from = page.next.unwrap_or(from);
                }
                Err(error) => failed = Some(error),
            }
        }
        // dircount and maxcount of 64 KiB.
        failed
            .is_none()
            .then(|| (READDIRPLUS, [opaque(&directory), from.0.to_vec(), from.1.to_vec(), words(&[1 << 16, 1 << 16])].concat()))
    })?;
    *clock = entries_clock;
    failed.map_or(Ok(()), Err)
}

struct Page {
    entries: u64,
    /// Cookie and verifier to go on with; none at the end.
    next: Option<([u8; 8], [u8; 8])>,
}

/// READDIRPLUS3resok of RFC 1813 §3.3.17.
fn page(results: &[u8]) -> Result<Page> {
    let mut xdr = Xdr(results);
    xdr.take(4)?;
    xdr.post_op_attr()?;
    let verifier = xdr.eight()?;
    let (mut entries, mut cookie) = (0, [0; 8]);
    while xdr.word()? != 0 {
        xdr.take(8)?;
        xdr.opaque()?;
        cookie = xdr.eight()?;
        xdr.post_op_attr()?;
        if xdr.word()? != 0 {
            xdr.opaque()?;
        }
        entries += 1;
    }
    Ok(Page { entries, next: (xdr.word()? == 0).then_some((cookie, verifier)) })
}

/// Offsets of 1 MiB blocks through the file, again and again.
fn blocks() -> impl FnMut() -> u64 {
    let mut block = 0;
    move || {
        let at = block % FILE_BLOCKS * MIB as u64;
        block += 1;
        at
    }
}

/// What was counted, in all and second by second.
#[derive(Clone)]
struct Clock {
    begin: Instant,
    limit: Duration,
    seconds: Vec<u64>,
}

impl Clock {
    fn new(limit: Duration) -> Self {
        Self { begin: Instant::now(), limit, seconds: Vec::new() }
    }

    fn is_over(&self) -> bool {
        self.begin.elapsed() >= self.limit
    }

    fn count(&mut self, count: u64) {
        let second = self.begin.elapsed().as_secs() as usize;
        self.seconds.resize(self.seconds.len().max(second + 1), 0);
        self.seconds[second] += count;
    }

    fn print(&self) {
        let all = self.seconds.iter().sum::<u64>() as f64 / self.begin.elapsed().as_secs_f64();
        let seconds: Vec<String> = self.seconds.iter().map(u64::to_string).collect();
        println!("{all:.1} {}", seconds.join(" "));
    }
}

fn mount(address: &str, export: &str) -> Result<Vec<u8>> {
    let results = Client::connect(address)?.call(MOUNT, 1, &opaque(export.as_bytes()))?;
    Ok(Xdr(results.get(4..).unwrap_or_default()).opaque()?.to_vec())
}

fn create_args(directory: &[u8], name: &str) -> Vec<u8> {
    // GUARDED, mode 0644, nothing else said.
    [opaque(directory), opaque(name.as_bytes()), words(&[1, 1, 0o644, 0, 0, 0, 0, 0])].concat()
}

/// The handle in the results of CREATE or MKDIR.
fn created(results: &[u8]) -> Result<Vec<u8>> {
    let mut xdr = Xdr(results);
    xdr.take(4)?;
    if xdr.word()? == 0 {
        return Err(Error::other("a server that gives no handle for what it made"));
    }
    Ok(xdr.opaque()?.to_vec())
}

struct Client {
    stream: TcpStream,
    credential: Vec<u8>,
    xid: u32,
    input: Vec<u8>,
    /// What of the input is not taken yet.
    from: usize,
    to: usize,
}

impl Client {
    fn connect(address: impl ToSocketAddrs) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        // AUTH_SYS of root (RFC 5531 appendix A), and no verifier.
        let sys = [words(&[0]), opaque(b"bench"), words(&[0, 0, 0])].concat();
        let credential = [words(&[1]), opaque(&sys), words(&[0, 0])].concat();
        let xid = std::process::id() << 12;
        Ok(Self { stream, credential, xid, input: vec![0; 4 * MIB], from: 0, to: 0 })
    }

    fn record(&mut self, output: &mut Vec<u8>, program: u32, procedure: u32, args: &[u8]) -> u32 {
        self.xid = self.xid.wrapping_add(1);
        let length = (24 + self.credential.len() + args.len()) as u32;
        output.extend(words(&[0x8000_0000 | length, self.xid, 0, 2, program, 3, procedure]));
        output.extend(&self.credential);
        output.extend(args);
        self.xid
    }

    fn call(&mut self, program: u32, procedure: u32, args: &[u8]) -> Result<Vec<u8>> {
        let mut output = Vec::new();
        let xid = self.record(&mut output, program, procedure, args);
        self.stream.write_all(&output)?;
        let (answered, results) = self.answer(procedure)?;
        if answered != xid {
            return Err(Error::other("an answer to another call"));
        }
        Ok(results.to_vec())
    }

    fn create(&mut self, directory: &[u8], name: &str) -> Result<Vec<u8>> {
        created(&self.call(NFS, CREATE, &create_args(directory, name))?)
    }

    fn mkdir(&mut self, directory: &[u8], name: &str) -> Result<Vec<u8>> {
        let args = [opaque(directory), opaque(name.as_bytes()), words(&[1, 0o755, 0, 0, 0, 0, 0])].concat();
        created(&self.call(NFS, MKDIR, &args)?)
    }

    fn fill(&mut self, file: &[u8]) -> Result<()> {
        let body = opaque(&vec![b'r'; MIB]);
        for block in 0..FILE_BLOCKS {
            self.call(
                NFS,
                WRITE,
                &[opaque(file), words(&[0, (block as usize * MIB) as u32, MIB as u32, 0]), body.clone()].concat(),
            )?;
        }
        self.call(NFS, COMMIT, &[opaque(file), words(&[0, 0, 0])].concat()).map(drop)
    }

    /// Keeps so many calls in flight until the clock is over or `next` has none; `next` is given the slot, and the results of the slot's last call.
    fn run(
        &mut self,
        in_flight: usize,
        clock: &mut Clock,
        mut next: impl FnMut(usize, Option<&[u8]>) -> Option<(u32, Vec<u8>)>,
    ) -> Result<()> {
        let mut slots: HashMap<u32, (usize, u32)> = HashMap::new();
        let mut output = Vec::new();
        for slot in 0..in_flight {
            if let Some((procedure, args)) = next(slot, None) {
                slots.insert(self.record(&mut output, NFS, procedure, &args), (slot, procedure));
            }
        }
        while !slots.is_empty() {
            // What became free by answers that are here is sent in one go.
            if !output.is_empty() && !self.has_answer() {
                self.send(&mut output)?;
            }
            let xid = self.next_xid()?;
            let (slot, procedure) = slots.remove(&xid).ok_or_else(|| Error::other("an answer to no call"))?;
            let results = self.answer(procedure)?.1.to_vec();
            clock.count(1);
            if !clock.is_over()
                && let Some((procedure, args)) = next(slot, Some(&results))
            {
                slots.insert(self.record(&mut output, NFS, procedure, &args), (slot, procedure));
            }
        }
        Ok(())
    }

    /// Sends, and takes in what is answered meanwhile: neither side waits for the other to read.
    fn send(&mut self, output: &mut Vec<u8>) -> Result<()> {
        let mut sent = 0;
        self.stream.set_nonblocking(true)?;
        while sent < output.len() {
            match self.stream.write(&output[sent..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => match self.receive() {
                    Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
                    _ => std::thread::yield_now(),
                },
                Err(error) => return Err(error),
            }
        }
        self.stream.set_nonblocking(false)?;
        output.clear();
        Ok(())
    }

    fn receive(&mut self) -> Result<()> {
        if self.from == self.to {
            (self.from, self.to) = (0, 0);
        } else if self.to == self.input.len() {
            self.input.copy_within(self.from..self.to, 0);
            (self.from, self.to) = (0, self.to - self.from);
            if self.to == self.input.len() {
                self.input.resize(2 * self.to, 0);
            }
        }
        match self.stream.read(&mut self.input[self.to..])? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            count => {
                self.to += count;
                Ok(())
            }
        }
    }

    fn has_answer(&self) -> bool {
        let here = &self.input[self.from..self.to];
        here.len() >= 8 && here.len() >= 4 + mark(here)
    }

    fn next_xid(&mut self) -> Result<u32> {
        while !self.has_answer() {
            self.receive()?;
        }
        Ok(word_at(&self.input[self.from..self.to], 4))
    }

    /// The next answer: its xid, and the results after a status of success (servers here answer in one fragment).
    fn answer(&mut self, procedure: u32) -> Result<(u32, &[u8])> {
        let xid = self.next_xid()?;
        let length = mark(&self.input[self.from..self.to]);
        let body = &self.input[self.from + 4..self.from + 4 + length];
        self.from += 4 + length;
        // xid, REPLY, MSG_ACCEPTED, no verifier, SUCCESS, and the status of the procedure.
        if body.len() < 28 || word_at(body, 8) != 0 || word_at(body, 20) != 0 || word_at(body, 24) != 0 {
            return Err(Error::other(format!("procedure {procedure}: {:?}", &body[..body.len().min(28)])));
        }
        Ok((xid, &body[24..]))
    }
}

/// The length in a record mark (RFC 5531 §11).
fn mark(input: &[u8]) -> usize {
    (word_at(input, 0) & 0x7FFF_FFFF) as usize
}

fn word_at(input: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([input[at], input[at + 1], input[at + 2], input[at + 3]])
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

fn opaque(bytes: &[u8]) -> Vec<u8> {
    let mut output = words(&[bytes.len() as u32]);
    output.extend(bytes);
    output.resize(output.len().next_multiple_of(4), 0);
    output
}

/// What is left of results.
struct Xdr<'a>(&'a [u8]);

impl<'a> Xdr<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or_else(|| Error::other("results end too early"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn word(&mut self) -> Result<u32> {
        self.take(4).map(|bytes| word_at(bytes, 0))
    }

    fn eight(&mut self) -> Result<[u8; 8]> {
        self.take(8)?.try_into().map_err(Error::other)
    }

    fn opaque(&mut self) -> Result<&'a [u8]> {
        let length = self.word()? as usize;
        let bytes = self.take(length)?;
        self.take(length.next_multiple_of(4) - length)?;
        Ok(bytes)
    }

    fn post_op_attr(&mut self) -> Result<()> {
        if self.word()? != 0 {
            self.take(84)?;
        }
        Ok(())
    }
}
