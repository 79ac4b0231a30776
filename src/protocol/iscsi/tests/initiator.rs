//! An initiator: as simple as one can be, and at nobody's mercy about what it sends.

use std::net::SocketAddr;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Duration, timeout};

use super::NAME;
use crate::protocol::iscsi::inbox::{Digests, Inbox};
use crate::protocol::iscsi::outbox::Outbox;
use crate::protocol::iscsi::pdu::{FINAL, Header, NO_TAG, Pdu, at, request, response};
use crate::protocol::iscsi::text;

pub(in super::super) const READS: u8 = 0x40;
pub(in super::super) const WRITES: u8 = 0x20;

/// How a command ended, for the initiator.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Outcome {
    pub(in super::super) status: u8,
    pub(in super::super) sense: Vec<u8>,
    pub(in super::super) data: Vec<u8>,
    /// Flag and count.
    pub(in super::super) residual: (u8, u32),
    pub(in super::super) r2ts: u32,
}

pub(in super::super) struct Initiator {
    pub(in super::super) socket: TcpStream,
    inbox: Inbox,
    digests: Digests,
    pub(in super::super) tag: u32,
    pub(in super::super) command_number: u32,
    pub(in super::super) command_max: u32,
    pub(in super::super) isid: [u8; 6],
    /// Immediate data and unsolicited data that are sent, in bytes.
    pub(in super::super) immediate_bytes: usize,
    pub(in super::super) unsolicited_bytes: usize,
    /// What was agreed on at the login.
    pub(in super::super) agreed: text::Pairs,
}

impl Initiator {
    pub(in super::super) async fn connect(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).await.unwrap();
        socket.set_nodelay(true).unwrap();
        Self {
            socket,
            inbox: Inbox::new(1 << 24),
            digests: Digests::default(),
            tag: 0,
            command_number: 1,
            command_max: 1,
            isid: [0, 2, 0x3d, 0, 0, 1],
            immediate_bytes: 0,
            unsolicited_bytes: 0,
            agreed: Vec::new(),
        }
    }

    pub(in super::super) async fn send(&mut self, header: Header, data: &[u8]) {
        let mut outbox = Outbox::new(self.digests);
        outbox.push(header, vec![Bytes::copy_from_slice(data)], None);
        self.socket.write_all(&outbox.take_all()).await.unwrap();
    }

    /// The next unit. `None`: the target has closed the connection.
    pub(in super::super) async fn try_receive(&mut self) -> Option<Pdu> {
        loop {
            if let Some(pdu) = self.inbox.next().unwrap() {
                self.command_max = pdu.header.word(at::COMMAND_MAX);
                return Some(pdu);
            }
            let read = timeout(Duration::from_secs(20), self.socket.read_buf(self.inbox.room())).await;
            if matches!(read.expect("an answer"), Ok(0) | Err(_)) {
                return None;
            }
        }
    }

    pub(in super::super) async fn receive(&mut self) -> Pdu {
        self.try_receive().await.expect("a unit")
    }

    /// Whether the target closes the connection, soon.
    pub(in super::super) async fn is_closed(&mut self) -> bool {
        while self.try_receive().await.is_some() {}
        true
    }

    /// Whether nothing more comes, but the connection's end.
    pub(in super::super) async fn is_closed_or_silent(&mut self) -> bool {
        matches!(timeout(Duration::from_millis(300), self.try_receive()).await, Err(_) | Ok(None))
    }

    pub(in super::super) fn login_header(&self, stage: u8, next: Option<u8>) -> Header {
        let mut header = Header::new(request::LOGIN | 0x40, self.tag);
        header.0[1] = stage << 2 | next.map_or(0, |next| FINAL | next);
        header.0[8..14].copy_from_slice(&self.isid);
        header.set(at::COMMAND, self.command_number);
        header
    }

    /// One request of a login: status and answers.
    pub(in super::super) async fn login_step(
        &mut self,
        stage: u8,
        next: Option<u8>,
        keys: &[(&str, &str)],
    ) -> (u16, u8, text::Pairs) {
        let header = self.login_header(stage, next);
        self.send(header, &text::write(keys.iter().copied())).await;
        let answer = self.receive().await;
        assert_eq!(answer.header.opcode(), response::LOGIN);
        (answer.header.half(36), answer.header.flags(), text::parse(&answer.data).unwrap())
    }

    /// Logs in to the target in one request, without proof.
    pub(in super::super) async fn log_in(&mut self, name: &str, keys: &[(&str, &str)]) -> Result<(), u16> {
        let initiator = format!("iqn.2026-01.org.example:{name}");
        let mut all = vec![("InitiatorName", initiator.as_str()), ("TargetName", NAME), ("SessionType", "Normal")];
        all.extend([("InitialR2T", "No"), ("MaxBurstLength", "65536"), ("MaxRecvDataSegmentLength", "16384")]);
        all.extend(keys);
        let (status, flags, agreed) = self.login_step(1, Some(3), &all).await;
        if status != 0 {
            return Err(status);
        }
        assert_eq!(flags, FINAL | 1 << 2 | 3);
        let agreed_on = |key: &str| agreed.iter().any(|(name, value)| name == key && value == "CRC32C");
        self.digests = Digests { header: agreed_on("HeaderDigest"), data: agreed_on("DataDigest") };
        self.inbox.digests = self.digests;
        self.agreed = agreed;
        Ok(())
    }

    /// Hears of what there is to hear of.
    pub(in super::super) async fn settle(&mut self) {
        while self.command(&[0; 6], 0, &[], 0).await.status == 2 {}
    }

    pub(in super::super) fn command_header(&mut self, cdb: &[u8], flags: u8, expected_bytes: u32) -> Header {
        self.tag += 1;
        let mut header = Header::new(request::COMMAND, self.tag);
        header.0[1] = FINAL | flags | 1;
        header.set(at::TRANSFER, expected_bytes);
        header.set(at::COMMAND, self.command_number);
        header.0[32..32 + cdb.len()].copy_from_slice(cdb);
        self.command_number = self.command_number.wrapping_add(1);
        header
    }

    /// A command to its end; data is sent as it is asked for.
    pub(in super::super) async fn command(&mut self, cdb: &[u8], flags: u8, data: &[u8], expected_bytes: u32) -> Outcome {
        let mut header = self.command_header(cdb, flags, expected_bytes);
        let tag = self.tag;
        let immediate = self.immediate_bytes.min(data.len());
        let first = (immediate + self.unsolicited_bytes).min(data.len());
        if first > immediate {
            header.0[1] &= !FINAL;
        }
        self.send(header, &data[..immediate]).await;
        if first > immediate {
            self.data_out(tag, NO_TAG, immediate, &data[immediate..first]).await;
        }
        let mut outcome = Outcome::default();
        loop {
            let pdu = self.receive().await;
            assert_eq!(pdu.header.task(), tag, "{pdu:?}");
            match pdu.header.opcode() {
                response::R2T => {
                    outcome.r2ts += 1;
                    let (offset, len) = (pdu.header.word(at::OFFSET) as usize, pdu.header.word(at::COUNT) as usize);
                    self.data_out(tag, pdu.header.word(at::TRANSFER), offset, &data[offset..offset + len]).await;
                }
                response::DATA_IN => {
                    assert_eq!(pdu.header.word(at::OFFSET) as usize, outcome.data.len());
                    assert!(pdu.data.len() <= 16384);
                    outcome.data.extend_from_slice(&pdu.data);
                    if pdu.header.flags() & 1 == 1 {
                        outcome.residual = (pdu.header.flags() & 6, pdu.header.word(at::COUNT));
                        return outcome;
                    }
                }
                response::RESPONSE => {
                    outcome.status = pdu.header.0[3];
                    outcome.sense = pdu.data.get(2..).unwrap_or_default().to_vec();
                    outcome.residual = (pdu.header.flags() & 6, pdu.header.word(at::COUNT));
                    return outcome;
                }
                other => panic!("{other:#x}"),
            }
        }
    }

    /// Data in units of up to 8192 bytes.
    pub(in super::super) async fn data_out(&mut self, tag: u32, transfer: u32, offset: usize, data: &[u8]) {
        let count = data.chunks(8192).count();
        for (number, part) in data.chunks(8192).enumerate() {
            let mut header = Header::new(request::DATA_OUT, tag);
            header.0[1] = if number + 1 == count { FINAL } else { 0 };
            header.set(at::TRANSFER, transfer);
            header.set(at::DATA, number as u32);
            header.set(at::OFFSET, (offset + number * 8192) as u32);
            self.send(header, part).await;
        }
    }

    pub(in super::super) async fn write(&mut self, lba: u32, data: &[u8]) -> Outcome {
        let cdb = ten(0x2a, lba, (data.len() / 512) as u16);
        self.command(&cdb, WRITES, data, data.len() as u32).await
    }

    pub(in super::super) async fn read(&mut self, lba: u32, blocks: u16) -> Outcome {
        self.command(&ten(0x28, lba, blocks), READS, &[], u32::from(blocks) * 512).await
    }

    /// Sends a task management function; its response comes later.
    pub(in super::super) async fn manage(&mut self, function: u8, about: u32) -> u32 {
        self.tag += 1;
        let mut header = Header::new(request::TASK_MANAGEMENT | 0x40, self.tag);
        header.0[1] = FINAL | function;
        header.set(at::TRANSFER, about);
        header.set(at::COMMAND, self.command_number);
        self.send(header, &[]).await;
        self.tag
    }

    /// Whether the session still lives.
    pub(in super::super) async fn is_well(&mut self) -> bool {
        self.command(&[0; 6], 0, &[], 0).await.status == 0
    }
}

pub(in super::super) fn ten(code: u8, lba: u32, blocks: u16) -> Vec<u8> {
    [&[code, 0][..], &lba.to_be_bytes(), &[0], &blocks.to_be_bytes(), &[0]].concat()
}
