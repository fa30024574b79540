// Package diode carries directories over UDP that only ever flows inward
// (docs/diode.md has every byte). The sender never waits for an answer, the
// receiver never sends one.
//
// A directory (one volume of a bundle, say) is a session: its files one after
// the other are a stream, cut into blocks of K shards that get P shards of
// Reed–Solomon parity. Any K of them give the block back, in any order, of any
// pass, before or after a restart of either end. A lost block is named and
// waits for the next pass; it disturbs nothing else.
//
// Nothing that arrives is believed: packets without the line's tag are
// dropped, a file counts when its SHA-256 is the table's, and what is in the
// directory is then judged by its own signatures, as on any medium.
package diode
