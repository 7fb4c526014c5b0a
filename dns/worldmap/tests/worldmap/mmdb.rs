//! Writes small databases in MaxMind's format, version 2.0, so that tests need no file of others.

use std::net::Ipv4Addr;

#[derive(Debug, Clone)]
pub enum Value {
    Text(&'static str),
    Double(f64),
    U16(u16),
    U32(u32),
    U64(u64),
    List(Vec<Value>),
    Map(Vec<(&'static str, Value)>),
}

/// Where a record of the search tree leads.
#[derive(Clone, Copy)]
enum Record {
    Nothing,
    Node(usize),
    Data(usize),
}

const DATA_SEPARATOR: [u8; 16] = [0; 16];

/// An IPv4 database of networks that do not overlap.
pub fn database(kind: &'static str, networks: &[(&str, Value)]) -> Vec<u8> {
    let mut nodes = vec![[Record::Nothing; 2]];
    let mut data = Vec::new();
    for (network, value) in networks {
        let (ip, len) = network.split_once('/').unwrap();
        let (ip, len): (Ipv4Addr, usize) = (ip.parse().unwrap(), len.parse().unwrap());
        let bit = |depth: usize| usize::from(ip.to_bits() >> (31 - depth) & 1 == 1);
        let mut node = 0;
        for depth in 0..len - 1 {
            node = match nodes[node][bit(depth)] {
                Record::Node(next) => next,
                _ => {
                    nodes.push([Record::Nothing; 2]);
                    let next = nodes.len() - 1;
                    nodes[node][bit(depth)] = Record::Node(next);
                    next
                }
            };
        }
        nodes[node][bit(len - 1)] = Record::Data(data.len());
        value.write(&mut data);
    }

    let mut file = Vec::new();
    for record in nodes.iter().flatten() {
        let number = match record {
            Record::Nothing => nodes.len(),
            Record::Node(node) => *node,
            Record::Data(offset) => nodes.len() + DATA_SEPARATOR.len() + offset,
        };
        let [.., b2, b1, b0] = number.to_be_bytes();
        file.extend([b2, b1, b0]);
    }
    file.extend(DATA_SEPARATOR);
    file.extend(data);
    file.extend(b"\xAB\xCD\xEFMaxMind.com");
    let metadata = Value::Map(vec![
        ("node_count", Value::U32(nodes.len().try_into().unwrap())),
        ("record_size", Value::U16(24)),
        ("ip_version", Value::U16(4)),
        ("database_type", Value::Text(kind)),
        ("languages", Value::List(vec![Value::Text("en")])),
        ("binary_format_major_version", Value::U16(2)),
        ("binary_format_minor_version", Value::U16(0)),
        ("build_epoch", Value::U64(1_700_000_000)),
        ("description", Value::Map(vec![("en", Value::Text("test"))])),
    ]);
    metadata.write(&mut file);
    file
}

impl Value {
    fn write(&self, to: &mut Vec<u8>) {
        match self {
            Self::Text(text) => {
                start(2, text.len(), to);
                to.extend(text.bytes());
            }
            Self::Double(number) => {
                start(3, 8, to);
                to.extend(number.to_be_bytes());
            }
            Self::U16(number) => {
                start(5, 2, to);
                to.extend(number.to_be_bytes());
            }
            Self::U32(number) => {
                start(6, 4, to);
                to.extend(number.to_be_bytes());
            }
            Self::U64(number) => {
                start(9, 8, to);
                to.extend(number.to_be_bytes());
            }
            Self::Map(members) => {
                start(7, members.len(), to);
                for (key, value) in members {
                    Self::Text(key).write(to);
                    value.write(to);
                }
            }
            Self::List(items) => {
                start(11, items.len(), to);
                items.iter().for_each(|item| item.write(to));
            }
        }
    }
}

/// A control byte: three bits of type, five of size; types beyond seven are in a byte of their own,
/// sizes from 29 to 284 too.
fn start(kind: u8, size: usize, to: &mut Vec<u8>) {
    let size_byte = size.checked_sub(29).map(|more| u8::try_from(more).unwrap());
    let size: u8 = size.min(29).try_into().unwrap();
    match kind.checked_sub(7) {
        None | Some(0) => to.push(kind << 5 | size),
        Some(extended) => to.extend([size, extended]),
    }
    to.extend(size_byte);
}
