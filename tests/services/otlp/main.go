// The receiver of the OpenTelemetry Collector for OTLP over HTTP, alone: adds what it takes to a file, a
// line of JSON a request, in the encoding that OTLP has for files.
//
// Arguments: address to listen on, file; for TLS its certificate, its key and the authority of its clients.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/otlpreceiver"
	"go.uber.org/zap"
)

func run(address, path string, tls []string) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	var writing sync.Mutex
	write := func(_ context.Context, traces ptrace.Traces) error {
		line, err := (&ptrace.JSONMarshaler{}).MarshalTraces(traces)
		if err != nil {
			return err
		}
		writing.Lock()
		defer writing.Unlock()
		_, err = file.Write(append(line, '\n'))
		return err
	}
	traces, err := consumer.NewTraces(write)
	if err != nil {
		return err
	}
	factory := otlpreceiver.NewFactory()
	config := factory.CreateDefaultConfig()
	http := map[string]any{"endpoint": address}
	if len(tls) == 3 {
		http["tls"] = map[string]any{"cert_file": tls[0], "key_file": tls[1], "client_ca_file": tls[2]}
	}
	given := confmap.NewFromStringMap(map[string]any{"protocols": map[string]any{"http": http}})
	if err := given.Unmarshal(config); err != nil {
		return err
	}
	telemetry := componenttest.NewNopTelemetrySettings()
	telemetry.Logger = zap.Must(zap.NewProduction())
	settings := receiver.Settings{ID: component.NewID(factory.Type()), TelemetrySettings: telemetry}
	otlp, err := factory.CreateTraces(context.Background(), settings, config, traces)
	if err != nil {
		return err
	}
	stop, stopped := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stopped()
	if err := otlp.Start(stop, componenttest.NewNopHost()); err != nil {
		return err
	}
	<-stop.Done()
	return otlp.Shutdown(context.Background())
}

func main() {
	if err := run(os.Args[1], os.Args[2], os.Args[3:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
