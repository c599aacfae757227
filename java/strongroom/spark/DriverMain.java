package strongroom.spark;

import java.io.FileInputStream;
import java.io.FileDescriptor;
import java.io.InputStream;
import org.apache.spark.SparkConf;
import org.apache.spark.api.python.Py4JServer;

/**
 * Starts the driver's JVM: adopt the cluster secret, open the Py4J gateway, tell its port and token to the parent.
 *
 * <p>Port and token go through the pipe on standard output, never through a file.
 */
public final class DriverMain {
  private DriverMain() {}

  public static void main(String[] arguments) throws Exception {
    InputStream input = new FileInputStream(FileDescriptor.in);
    ClusterSecret.adopt(input);
    Parent.watch(input);
    TemporaryFiles.separate();
    ParentLine.take();
    Py4JServer server = new Py4JServer(new SparkConf());
    server.start();
    ParentLine.hello(server.getListeningPort(), server.secret());
    Thread.currentThread().join();
  }
}
