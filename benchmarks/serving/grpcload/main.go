// Command grpcload calls a unary gRPC method over and over, each call with another message, and prints what it saw as JSON.
//
// A pool file holds the messages, each after its length as four bytes, lowest first. Every call takes the next one, with a
// fresh UUID in place of each zero UUID in it, and carries the same UUID as x-request-id. Each connection has one call under way.
package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
)

const zeroUUID = "00000000-0000-0000-0000-000000000000"

// rawCodec passes messages on as bytes.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(message any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*message.(*[]byte))}, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, message any) error {
	*message.(*[]byte) = data.Materialize()
	return nil
}

// template is a message and the places of its UUID.
type template struct {
	message []byte
	places  []int
}

func (t template) fill(uuid string) []byte {
	message := bytes.Clone(t.message)
	for _, place := range t.places {
		copy(message[place:], uuid)
	}
	return message
}

func readPool(path string) ([]template, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var pool []template
	for len(data) >= 4 {
		length := int(binary.LittleEndian.Uint32(data))
		if len(data) < 4+length {
			return nil, fmt.Errorf("%s is cut short", path)
		}
		message := data[4 : 4+length]
		data = data[4+length:]
		var places []int
		for from := 0; ; {
			place := bytes.Index(message[from:], []byte(zeroUUID))
			if place < 0 {
				break
			}
			places = append(places, from+place)
			from += place + len(zeroUUID)
		}
		pool = append(pool, template{message, places})
	}
	if len(pool) == 0 {
		return nil, fmt.Errorf("%s is empty", path)
	}
	return pool, nil
}

func newUUID() string {
	var bits [16]byte
	binary.NativeEndian.PutUint64(bits[:], rand.Uint64())
	binary.NativeEndian.PutUint64(bits[8:], rand.Uint64())
	bits[6] = bits[6]&0x0f | 0x40
	bits[8] = bits[8]&0x3f | 0x80
	var text [36]byte
	hex.Encode(text[0:8], bits[0:4])
	hex.Encode(text[9:13], bits[4:6])
	hex.Encode(text[14:18], bits[6:8])
	hex.Encode(text[19:23], bits[8:10])
	hex.Encode(text[24:36], bits[10:16])
	text[8], text[13], text[18], text[23] = '-', '-', '-', '-'
	return string(text[:])
}

// call calls once and returns an error where the status is not OK or the answer is empty.
func call(connection *grpc.ClientConn, method string, message template, uuid string) error {
	request := message.fill(uuid)
	var response []byte
	context := metadata.AppendToOutgoingContext(context.Background(), "x-request-id", uuid)
	if err := connection.Invoke(context, method, &request, &response); err != nil {
		return err
	}
	if len(response) == 0 {
		return fmt.Errorf("an empty answer")
	}
	return nil
}

type report struct {
	Requests int     `json:"requests"`
	Errors   int     `json:"errors"`
	Seconds  float64 `json:"seconds"`
	P50      float64 `json:"p50_ms"`
	P99      float64 `json:"p99_ms"`
	// FirstError says what was wrong with the first failed call.
	FirstError string `json:"first_error,omitempty"`
}

func run(address, method, path string, connections int, duration time.Duration, repeated bool) (*report, error) {
	pool, err := readPool(path)
	if err != nil {
		return nil, err
	}
	var (
		next    atomic.Uint64
		lock    sync.Mutex
		group   sync.WaitGroup
		taken   []time.Duration
		result  report
		clients []*grpc.ClientConn
	)
	for range connections {
		client, err := grpc.NewClient(
			address,
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{}), grpc.MaxCallRecvMsgSize(1<<30)),
		)
		if err != nil {
			return nil, err
		}
		defer client.Close()
		clients = append(clients, client)
	}
	begun := time.Now()
	end := begun.Add(duration)
	for _, client := range clients {
		group.Go(func() {
			var mine []time.Duration
			var failed int
			var first error
			uuid := newUUID()
			for before := time.Now(); before.Before(end); {
				which := uint64(0)
				if !repeated {
					which = next.Add(1) % uint64(len(pool))
					uuid = newUUID()
				}
				if err := call(client, method, pool[which], uuid); err != nil {
					failed++
					if first == nil {
						first = err
					}
				}
				after := time.Now()
				mine = append(mine, after.Sub(before))
				before = after
			}
			lock.Lock()
			defer lock.Unlock()
			taken = append(taken, mine...)
			result.Errors += failed
			if first != nil && result.FirstError == "" {
				result.FirstError = first.Error()
			}
		})
	}
	group.Wait()
	result.Seconds = time.Since(begun).Seconds()
	result.Requests = len(taken)
	slices.Sort(taken)
	quantile := func(hundredths int) float64 {
		return float64(taken[len(taken)*hundredths/100].Nanoseconds()) / 1e6
	}
	result.P50, result.P99 = quantile(50), quantile(99)
	return &result, nil
}

func main() {
	address := flag.String("address", "", "HOST:PORT of the server")
	method := flag.String("method", "", "/package.Service/Method")
	pool := flag.String("pool", "", "the file of messages")
	connections := flag.Int("connections", 8, "each has one call under way")
	duration := flag.Duration("duration", 4*time.Second, "how long to call")
	repeated := flag.Bool("repeated", false, "send the first message with one UUID, over and over")
	flag.Parse()
	result, err := run(*address, *method, *pool, *connections, *duration, *repeated)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if err := json.NewEncoder(os.Stdout).Encode(result); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
