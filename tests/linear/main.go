// Command linear checks a history of clients: each key by itself, as a register that is 0 at first.
//
//	linear [--plain] [--timeout DURATION] HISTORY
//
// HISTORY has one operation a line (see operation), in any order. Each value is written at most once for
// each key. Exit status: 0 = linearizable, 1 = not (the key and the operations that do not go together are printed), 2 =
// the history cannot be read, or porcupine came to no end within the timeout (for each question).
//
// Operations marked "plain" are counted where they do not fit, and are no failure; with --plain they are checked as all others.
package main

import (
	"flag"
	"fmt"
	"os"
	"time"
)

type counts struct {
	bad, plain, stale, lost int
	expired                 bool
}

func main() {
	plain := flag.Bool("plain", false, "plain operations have to fit as all others")
	limit := flag.Duration("timeout", time.Minute, "for each question to porcupine")
	flag.Parse()
	if flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	h, err := readHistory(flag.Arg(0))
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", flag.Arg(0), err)
		os.Exit(2)
	}
	var n counts
	for _, key := range h.keys {
		checkKey(key, h.of[key], *plain, *limit, &n)
	}
	fmt.Printf("%d keys, %d operations: %d ok, %d fail, %d unknown\n", len(h.keys), h.all, h.ok, h.failed, h.unknown)
	fmt.Printf("%d plain: %d stale, %d lost\n", n.plain, n.stale, n.lost)
	switch {
	case n.bad > 0:
		os.Exit(1)
	case n.expired:
		os.Exit(2)
	}
}

func checkKey(key string, ops []*operation, all bool, limit time.Duration, n *counts) {
	var certain, plain []*operation
	for _, o := range ops {
		if o.Plain && !all {
			plain = append(plain, o)
		} else {
			certain = append(certain, o)
		}
	}
	n.plain += len(plain)
	c := &checker{limit: limit}
	if !c.explains(certain) {
		n.bad++
		show(key, c.window(certain))
		return
	}
	stale, lost := c.plain(certain, plain)
	n.stale += stale
	n.lost += lost
	n.expired = n.expired || c.expired
	if c.expired {
		fmt.Printf("key %s: no answer within %v\n", key, limit)
		return
	}
	fmt.Printf("key %s: linearizable, %d operations, %d plain: %d stale, %d lost\n", key, len(certain), len(plain), stale, lost)
}

const shown = 60

func show(key string, ops []*operation) {
	from, to := span(ops)
	fmt.Printf("key %s: NOT linearizable: %d operations between %d and %d\n", key, len(ops), from, to)
	ops = byCall(ops)
	if len(ops) > shown {
		fmt.Printf("  the last %d of them:\n", shown)
		ops = ops[len(ops)-shown:]
	}
	for _, o := range ops {
		fmt.Printf("  %v\n", o)
	}
}
