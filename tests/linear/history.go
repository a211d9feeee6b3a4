package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
)

// operation is one line of a history. Fields that an operation does not have are absent.
type operation struct {
	Client  int    `json:"client"`
	Key     string `json:"key"`
	Op      string `json:"op"`      // read, write, cas
	Value   int64  `json:"value"`   // write, cas: what is written
	Old     int64  `json:"old"`     // cas: what is expected
	Output  *int64 `json:"output"`  // ok: what a read read; what a write replaced, if it knows
	Swapped *bool  `json:"swapped"` // cas that is ok
	Call    int64  `json:"call"`    // ns of any clock that all clients share
	Return  int64  `json:"return"`
	Outcome string `json:"outcome"` // ok, fail, unknown
	Plain   bool   `json:"plain"`   // it wrote nothing, so it waited for no standby
}

// neverReturned is when operations end of which nobody knows whether and when they happened.
const neverReturned = math.MaxInt64

func (o *operation) unknown() bool { return o.Return == neverReturned }

// forget makes it an operation whose outcome is unknown.
func (o *operation) forget() {
	o.Return, o.Output, o.Swapped = neverReturned, nil, nil
}

func (o *operation) swapped() bool { return o.Swapped != nil && *o.Swapped }

// mayWrite: the register may have its value after it.
func (o *operation) mayWrite() bool {
	return o.Op == "write" || o.Op == "cas" && (o.unknown() || o.swapped())
}

// missed: it was refused because the register had another value, nobody knows which.
func (o *operation) missed() bool { return o.Op == "cas" && !o.unknown() && !o.swapped() }

// observed returns the value that the register certainly had just before.
func (o *operation) observed() (int64, bool) {
	switch {
	case o.Op != "cas" && o.Output != nil && !o.unknown():
		return *o.Output, true
	case o.Op == "cas" && o.swapped() && !o.unknown():
		return o.Old, true
	}
	return 0, false
}

func (o *operation) String() string {
	end := fmt.Sprint(o.Return)
	if o.unknown() {
		end = "unknown"
	}
	text := fmt.Sprintf("client %d, %d to %s: %s", o.Client, o.Call, end, o.Op)
	switch {
	case o.Op == "read":
		text += fmt.Sprintf(" -> %d", *o.Output)
	case o.Op == "write" && o.Output != nil:
		text += fmt.Sprintf(" %d over %d", o.Value, *o.Output)
	case o.Op == "write":
		text += fmt.Sprintf(" %d", o.Value)
	case o.unknown():
		text += fmt.Sprintf(" from %d to %d", o.Old, o.Value)
	default:
		text += fmt.Sprintf(" from %d to %d -> %t", o.Old, o.Value, o.swapped())
	}
	if o.Plain {
		text += " (plain)"
	}
	return text
}

func (o *operation) check() error {
	switch {
	case o.Op != "read" && o.Op != "write" && o.Op != "cas":
		return fmt.Errorf("op %q is none of read, write, cas", o.Op)
	case o.Outcome != "ok" && o.Outcome != "fail" && o.Outcome != "unknown":
		return fmt.Errorf("outcome %q is none of ok, fail, unknown", o.Outcome)
	case o.Key == "":
		return fmt.Errorf("no key")
	case o.Outcome == "ok" && o.Return < o.Call:
		return fmt.Errorf("it returned at %d and was called at %d", o.Return, o.Call)
	case o.Outcome == "ok" && o.Op == "read" && o.Output == nil:
		return fmt.Errorf("a read that is ok has an output")
	case o.Outcome == "ok" && o.Op == "cas" && o.Swapped == nil:
		return fmt.Errorf("a cas that is ok says whether it swapped")
	case o.Plain && (o.Op == "write" || o.swapped()):
		return fmt.Errorf("what is plain writes nothing")
	}
	return nil
}

// history is what is left of a file after what says nothing was put aside.
type history struct {
	keys                     []string
	of                       map[string][]*operation
	all, ok, failed, unknown int
}

func (h *history) add(o *operation) {
	h.all++
	if _, there := h.of[o.Key]; !there {
		h.keys = append(h.keys, o.Key)
		h.of[o.Key] = nil
	}
	switch o.Outcome {
	case "fail":
		h.failed++
		return
	case "unknown":
		h.unknown++
		if o.Op == "read" {
			return
		}
		o.forget()
	default:
		h.ok++
	}
	h.of[o.Key] = append(h.of[o.Key], o)
}

// unique: the checks for stale reads and for what may be left out need that each value is written once.
func (h *history) unique() error {
	for _, key := range h.keys {
		seen := map[int64]bool{0: true}
		for _, o := range h.of[key] {
			if o.mayWrite() && seen[o.Value] {
				return fmt.Errorf("key %s: %d is written twice (0 is there from the beginning)", key, o.Value)
			}
			if o.mayWrite() {
				seen[o.Value] = true
			}
		}
	}
	return nil
}

func readHistory(path string) (*history, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	h := &history{of: map[string][]*operation{}}
	lines := bufio.NewScanner(file)
	for number := 1; lines.Scan(); number++ {
		o := &operation{}
		decoder := json.NewDecoder(bytes.NewReader(lines.Bytes()))
		decoder.DisallowUnknownFields()
		err := decoder.Decode(o)
		if err == nil {
			err = o.check()
		}
		if _, more := decoder.Token(); err == nil && more != io.EOF {
			err = fmt.Errorf("more than one object")
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		h.add(o)
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	return h, h.unique()
}
